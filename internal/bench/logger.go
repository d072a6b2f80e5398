package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/apache/thrift/lib/go/thrift"
	gen "github.com/osquery/osquery-go/gen/osquery"

	"github.com/osqvisor/osqvisor/internal/thriftconn"
)

// lineBytes is how long a log line is.
const lineBytes = 300

func logLine() string { return strings.Repeat("x", lineBytes) }

// loggerGroup measures how many logger calls are answered a second, called as
// osqueryd does: on a connection each, after one for a ping; and on one connection. The
// floor is a logger that stores nothing, behind the same server as ours.
func loggerGroup() Group {
	goal := Goal{Kind: AtLeastTimes, Bound: 0.8, Of: Floor}
	return Group{
		Name: "logger calls", Disk: true,
		Rows: []Row{
			{Work: "logger calls, as osqueryd makes them", Unit: "/s", Goal: goal},
			{Work: "logger calls, on one connection", Unit: "/s"},
		},
		Open: openLogger,
	}
}

func openLogger(ctx context.Context, env *Env) (*Job, error) {
	s, err := env.startSet(ctx, setOptions{n: 1})
	if err != nil {
		return nil, err
	}
	l, err := env.startLeast(ctx, spawnOptions{})
	if err != nil {
		return nil, errors.Join(err, s.stop())
	}
	p, err := env.startPlain(ctx, spawnOptions{})
	if err != nil {
		return nil, errors.Join(err, s.stop(), l.close())
	}
	job := &Job{Close: func() { _ = errors.Join(s.stop(), l.close(), p.close()) }}
	in, err := s.runner.Instance(s.ids[0])
	if err != nil {
		return job, err
	}
	n := env.few(20, 2000)
	for _, h := range []struct {
		who            Who
		manager, named string
	}{{Ours, in.Socket(), "osqvisor"}, {Floor, l.socket, pluginName}, {Plain, p.socket, pluginName}} {
		d, err := newDriver(ctx, h.manager, h.named)
		if err != nil {
			job.Close()
			return nil, err
		}
		job.Steps = append(job.Steps, one(0, h.who, d.fresh(n)), one(1, h.who, d.kept(n)))
	}
	return job, nil
}

// driver calls an extension's logger in osqueryd's place.
type driver struct {
	socket                 string
	ping, call             []byte
	pingAnswer, callAnswer []byte // room for them
}

// newDriver finds the extension of that name, and records both exchanges.
func newDriver(ctx context.Context, manager, name string) (*driver, error) {
	c, err := thriftconn.Dial(ctx, manager)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	list, err := c.Extensions(ctx)
	if err != nil {
		return nil, err
	}
	for uuid, info := range list {
		if info.GetName() == name {
			d := &driver{socket: fmt.Sprintf("%s.%d", manager, uuid)}
			err := d.record(ctx, name)
			return d, err
		}
	}
	return nil, fmt.Errorf("osqueryd does not list an extension %q", name)
}

func (d *driver) record(ctx context.Context, name string) error {
	var size int
	var err error
	d.ping, size, err = d.recordOne(ctx, func(c *gen.ExtensionClient) error { _, err := c.Ping(ctx); return err })
	if err != nil {
		return err
	}
	d.pingAnswer = make([]byte, size)
	d.call, size, err = d.recordOne(ctx, func(c *gen.ExtensionClient) error {
		res, err := c.Call(ctx, "logger", name, map[string]string{"string": logLine(), "category": "event"})
		if err == nil && res.Status.Code != 0 {
			err = errors.New(res.Status.Message)
		}
		return err
	})
	d.callAnswer = make([]byte, size)
	return err
}

func (d *driver) recordOne(ctx context.Context, do func(*gen.ExtensionClient) error) (request []byte, size int, err error) {
	conn, err := dialSocket(ctx, d.socket)
	if err != nil {
		return nil, 0, err
	}
	defer conn.Close()
	rec := &recorder{Conn: conn}
	trans := thrift.NewTBufferedTransport(thrift.NewTSocketFromConnConf(rec, nil), 4<<10)
	err = do(gen.NewExtensionClientFactory(trans, thrift.NewTBinaryProtocolFactoryConf(nil)))
	return bytes.Clone(rec.sent), rec.received, err
}

// fresh returns calls a second, each on a connection of its own.
func (d *driver) fresh(n int) func(context.Context) (float64, error) {
	return func(ctx context.Context) (float64, error) {
		return perSecond(n, func() error {
			return errors.Join(d.once(ctx, d.ping, d.pingAnswer), d.once(ctx, d.call, d.callAnswer))
		})
	}
}

// kept returns calls a second on one connection.
func (d *driver) kept(n int) func(context.Context) (float64, error) {
	return func(ctx context.Context) (float64, error) {
		conn, err := dialSocket(ctx, d.socket)
		if err != nil {
			return 0, err
		}
		defer conn.Close()
		return perSecond(n, func() error { return exchange(conn, d.call, d.callAnswer) })
	}
}

func (d *driver) once(ctx context.Context, request, answer []byte) error {
	conn, err := dialSocket(ctx, d.socket)
	if err != nil {
		return err
	}
	return errors.Join(exchange(conn, request, answer), conn.Close())
}

func exchange(conn net.Conn, request, answer []byte) error {
	if _, err := conn.Write(request); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, answer)
	return err
}

// perSecond returns how often f succeeds a second, over n times.
func perSecond(n int, f func() error) (float64, error) {
	began := time.Now()
	for range n {
		if err := f(); err != nil {
			return 0, err
		}
	}
	return float64(n) / time.Since(began).Seconds(), nil
}
