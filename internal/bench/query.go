package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/apache/thrift/lib/go/thrift"
	osquery "github.com/osquery/osquery-go"
	gen "github.com/osquery/osquery-go/gen/osquery"
)

// question is a query whose answer always has the same size.
type question struct {
	name       string
	fake, real string // SQL
	batch      int    // queries a sample
	bound      float64
}

func selectOne() question {
	return question{name: "select 1", fake: "select 1", real: "select 1", batch: 500, bound: 1.3}
}

func thousandRows() question {
	return question{
		name: "1000 rows x 5", batch: 40, bound: 1.15,
		fake: "select * from fake_rows where n = 1000",
		real: "with recursive c(i) as (select 1 union all select i+1 from c where i < 1000) " +
			"select i as a, 'name of row ' || i as b, '/usr/lib/some/path/' || i as c, i * 4711 as d, i % 7 as e from c",
	}
}

func (q question) sql(env *Env) string {
	if env.Real {
		return q.real
	}
	return q.fake
}

// queryGroup measures a query, one after the other, on one osqueryd. The floor
// sends the request's bytes and does not decode the answer's.
func queryGroup(q question) Group {
	goal := Goal{Kind: AtMostTimes, Bound: q.bound, Of: Other, Name: "generated client, buffered"}
	return Group{
		Name: q.name,
		Rows: []Row{{Work: q.name, Unit: "us", Goal: goal}},
		Open: func(ctx context.Context, env *Env) (*Job, error) {
			c, err := env.openClients(ctx)
			if err != nil {
				return nil, err
			}
			sql, n := q.sql(env), env.few(5, q.batch)
			raw, err := newReplay(ctx, c.socket, sql)
			if err != nil {
				return nil, errors.Join(err, c.close())
			}
			timed := func(who Who, f func(ctx context.Context) error) Step {
				return one(0, who, func(ctx context.Context) (float64, error) { return timeEach(ctx, n, f) })
			}
			return &Job{
				Steps: []Step{
					timed(Ours, func(ctx context.Context) error { _, err := c.set.query(ctx, sql); return err }),
					timed(Plain, func(context.Context) error { return checkAnswer(c.plain.Query(sql)) }),
					timed(Other, func(ctx context.Context) error { return checkAnswer(c.generated.Query(ctx, sql)) }),
					timed(Floor, func(context.Context) error { return raw.ask() }),
				},
				Close: func() { _ = errors.Join(raw.conn.Close(), c.close()) },
			}, nil
		},
	}
}

// timeEach returns the microseconds that f takes, the mean of n.
func timeEach(ctx context.Context, n int, f func(ctx context.Context) error) (float64, error) {
	began := time.Now()
	for range n {
		if err := f(ctx); err != nil {
			return 0, err
		}
	}
	return micros(time.Since(began)) / float64(n), nil
}

func checkAnswer(res *gen.ExtensionResponse, err error) error {
	switch {
	case err != nil:
		return err
	case res.Status.Code != 0:
		return fmt.Errorf("osqueryd: %s", res.Status.Message)
	case len(res.Response) == 0:
		return errors.New("osqueryd: no rows")
	}
	return nil
}

// clients are all ways to ask one osqueryd.
type clients struct {
	set       *set
	socket    string
	plain     *osquery.ExtensionManagerClient
	generated *gen.ExtensionManagerClient
	buffered  *thrift.TBufferedTransport
}

func (e *Env) openClients(ctx context.Context) (*clients, error) {
	s, err := e.startSet(ctx, setOptions{n: 1})
	if err != nil {
		return nil, err
	}
	c := &clients{set: s}
	if err := c.open(ctx); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	return c, nil
}

func (c *clients) open(ctx context.Context) error {
	in, err := c.set.runner.Instance(c.set.ids[0])
	if err != nil {
		return err
	}
	c.socket = in.Socket()
	if c.plain, err = osquery.NewClient(c.socket, plainTimeout); err != nil {
		return err
	}
	conn, err := dialSocket(ctx, c.socket)
	if err != nil {
		return err
	}
	c.buffered = thrift.NewTBufferedTransport(thrift.NewTSocketFromConnConf(conn, nil), 64<<10)
	c.generated = gen.NewExtensionManagerClientFactory(c.buffered, thrift.NewTBinaryProtocolFactoryConf(nil))
	return nil
}

func (c *clients) close() error {
	c.plain.Close()
	return errors.Join(c.buffered.Close(), c.set.stop())
}

// replay sends the bytes of one request, and reads as many as its answer has.
type replay struct {
	conn    net.Conn
	request []byte
	answer  []byte
}

// newReplay records the exchange by the generated client.
func newReplay(ctx context.Context, socket, sql string) (*replay, error) {
	conn, err := dialSocket(ctx, socket)
	if err != nil {
		return nil, err
	}
	rec := &recorder{Conn: conn}
	trans := thrift.NewTBufferedTransport(thrift.NewTSocketFromConnConf(rec, nil), 64<<10)
	client := gen.NewExtensionManagerClientFactory(trans, thrift.NewTBinaryProtocolFactoryConf(nil))
	if err := checkAnswer(client.Query(ctx, sql)); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return &replay{conn: conn, request: rec.sent, answer: make([]byte, rec.received)}, nil
}

func (r *replay) ask() error {
	if _, err := r.conn.Write(r.request); err != nil {
		return err
	}
	_, err := io.ReadFull(r.conn, r.answer)
	return err
}

// recorder notes what passes over a connection.
type recorder struct {
	net.Conn
	sent     []byte
	received int
}

// Read counts.
func (r *recorder) Read(b []byte) (int, error) {
	n, err := r.Conn.Read(b)
	r.received += n
	return n, err
}

// Write keeps.
func (r *recorder) Write(b []byte) (int, error) {
	r.sent = append(r.sent, b...)
	return r.Conn.Write(b)
}
