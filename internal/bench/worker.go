package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	osquery "github.com/osquery/osquery-go"
	"golang.org/x/sync/errgroup"
)

// workerScale makes the fake's own waits, such as the watcher's poll of 3 s, a
// tenth as long.
const workerScale = 0.1

// quickDeath is how old a worker must be for its death not to count against it.
const quickDeath = 4500 * time.Millisecond

// workerGroup measures, with the watchdog on, from kill -9 of the worker to the
// next query answered. The floor is the same event: until the socket can be
// connected to again, which is osqueryd's own respawn.
func workerGroup() Group {
	return Group{
		Name: "kill -9 of the worker", Rounds: 5,
		Rows: []Row{{Work: "kill -9 of the worker to query answered", Unit: "ms", Goal: Goal{Kind: AtMostMore, Bound: 50, Of: Floor}}},
		Open: openWorker,
	}
}

func openWorker(ctx context.Context, env *Env) (*Job, error) {
	age := quickDeath
	if !env.Real {
		script := realSpeed()
		script.TimeScale = workerScale
		binary, err := env.scripted(script)
		if err != nil {
			return nil, err
		}
		env = env.with(binary)
		age = time.Duration(float64(age) * workerScale)
	}
	s, err := env.startSet(ctx, setOptions{n: 1, watchdog: true})
	if err != nil {
		return nil, err
	}
	job := &Job{Steps: []Step{func(ctx context.Context) ([]Sample, error) { return s.workerKilled(ctx, age) }}}
	job.Close = func() { _ = s.stop() }
	if env.Quick {
		return job, nil
	}
	p, err := env.startPlain(ctx, spawnOptions{watchdog: true})
	if err != nil {
		return nil, errors.Join(err, s.stop())
	}
	job.Steps = append(job.Steps, one(0, Plain, func(ctx context.Context) (float64, error) { return p.workerKilled(ctx, age) }))
	job.Close = func() { _ = errors.Join(s.stop(), p.close()) }
	return job, nil
}

// workerKilled returns a pair: until a query was answered, and until the socket
// could be connected to.
func (s *set) workerKilled(ctx context.Context, age time.Duration) ([]Sample, error) {
	if err := pause(ctx, age); err != nil {
		return nil, err
	}
	worker, err := s.workerPID(ctx)
	if err != nil {
		return nil, err
	}
	in, err := s.runner.Instance(s.ids[0])
	if err != nil {
		return nil, err
	}
	began := time.Now()
	if err := killPID(worker); err != nil {
		return nil, err
	}
	var own time.Duration
	var back errgroup.Group
	back.Go(func() error {
		err := respawned(ctx, in.Socket())
		own = time.Since(began)
		return err
	})
	if err := until(ctx, func() error { _, err := s.query(ctx, "select 1"); return err }); err != nil {
		return nil, err
	}
	took := time.Since(began)
	if err := back.Wait(); err != nil {
		return nil, err
	}
	return []Sample{{0, Ours, millis(took)}, {0, Floor, millis(own)}}, nil
}

// respawned waits until the socket refuses, and then until it does not.
func respawned(ctx context.Context, socket string) error {
	gone := errors.New("the old worker still answers")
	if err := until(ctx, func() error {
		conn, err := dialSocket(ctx, socket)
		if err != nil {
			return nil
		}
		_ = conn.Close()
		return gone
	}); err != nil {
		return err
	}
	conn, err := (&bare{socket: socket}).dial(ctx)
	if err != nil {
		return err
	}
	return conn.Close()
}

// workerKilled has osqueryd replace its worker. The host notices by the server's
// ping, as the README has it, and makes another server.
func (p *plain) workerKilled(ctx context.Context, age time.Duration) (float64, error) {
	if err := pause(ctx, age); err != nil {
		return 0, err
	}
	worker, err := p.workerPID()
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if err := killPID(worker); err != nil {
		return 0, err
	}
	select {
	case err := <-p.ended:
		if err == nil {
			return 0, errors.New("plain osquery-go: the server ended without a word")
		}
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
	p.client.Close()
	if err := until(ctx, func() error { return p.attach(ctx) }); err != nil {
		return 0, err
	}
	err = p.query("select 1")
	return millis(time.Since(began)), err
}

func (p *plain) workerPID() (pid int, err error) {
	var c *osquery.ExtensionManagerClient
	if c, err = osquery.NewClient(p.socket, plainTimeout); err != nil {
		return 0, err
	}
	defer c.Close()
	row, err := c.QueryRow("select pid from osquery_info")
	if err != nil {
		return 0, err
	}
	_, err = fmt.Sscan(row["pid"], &pid)
	return pid, err
}
