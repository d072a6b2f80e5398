package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/osqvisor/osqvisor/instance"
)

// stopGroup measures from the end of Run's context to its return, for n instances.
// The floor is the slowest of n bare osqueryds that are asked at the same time.
func stopGroup(n, rounds int) Group {
	name := fmt.Sprintf("stop, %d in parallel", n)
	return Group{
		Name: name, Slow: n > manyInstances, Fake: n > manyInstances, Rounds: rounds,
		Rows: []Row{{Work: name, Unit: "ms", Goal: Goal{Kind: AtMostTimes, Bound: 1.2, Of: Floor}}},
		Open: func(_ context.Context, env *Env) (*Job, error) {
			return &Job{Steps: []Step{
				one(0, Ours, func(ctx context.Context) (float64, error) { return env.stopOurs(ctx, n) }),
				one(0, Plain, func(ctx context.Context) (float64, error) { return env.stopPlain(ctx, n, (*bare).stop) }),
				one(0, Floor, func(ctx context.Context) (float64, error) { return env.stopLeast(ctx, n) }),
			}}, nil
		},
	}
}

func (e *Env) stopOurs(ctx context.Context, n int, extra ...instance.Option) (float64, error) {
	s, err := e.startSet(ctx, setOptions{n: n, extra: extra})
	if err != nil {
		return 0, err
	}
	began := time.Now()
	err = s.stop()
	return millis(time.Since(began)), err
}

// stopLeast starts n osqueryds that an extension serves, and stops them.
func (e *Env) stopLeast(ctx context.Context, n int) (float64, error) {
	all, err := e.manyLeast(ctx, n)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	errs := each(all, func(l *least) error {
		_ = l.conn.Close() // osqueryd's server waits for its clients
		return l.stop()
	})
	took := time.Since(began)
	return millis(took), errors.Join(errs, each(all, (*least).close))
}

// stopPlain starts n osqueryds with osquery-go, and ends its servers and the osqueryds.
func (e *Env) stopPlain(ctx context.Context, n int, end func(*bare) error) (float64, error) {
	all, err := many(n, func() (*plain, error) { return e.startPlain(ctx, spawnOptions{}) }, (*plain).close)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	err = each(all, func(p *plain) error {
		_ = p.server.Shutdown(ctx) // before osqueryd ends, which it asks for its leave
		p.client.Close()
		if end(p.bare) != nil { // it has been seen to hang; the time tells
			return p.kill()
		}
		return nil
	})
	return millis(time.Since(began)), err
}

func (e *Env) manyLeast(ctx context.Context, n int) ([]*least, error) {
	all, err := many(n, func() (*least, error) { return e.startLeast(ctx, spawnOptions{}) }, (*least).close)
	if err != nil {
		return nil, err
	}
	return all, each(all, func(l *least) error {
		_, err := l.conn.Query(ctx, "select 1")
		return err
	})
}

// many starts n things at the same time: all of them, or none is left.
func many[T any](n int, start func() (*T, error), closeOne func(*T) error) ([]*T, error) {
	all := make([]*T, n)
	errs := make([]error, n)
	var wait sync.WaitGroup
	for i := range n {
		wait.Go(func() { all[i], errs[i] = start() })
	}
	wait.Wait()
	err := errors.Join(errs...)
	if err == nil {
		return all, nil
	}
	started := slices.DeleteFunc(all, func(x *T) bool { return x == nil })
	return nil, errors.Join(err, each(started, closeOne))
}

// each does something with all, in parallel.
func each[T any](all []T, do func(T) error) error {
	errs := make([]error, len(all))
	var wait sync.WaitGroup
	for i, x := range all {
		wait.Go(func() { errs[i] = do(x) })
	}
	wait.Wait()
	return errors.Join(errs...)
}

// zeroGraceGroup measures a stop without grace. The floor is kill -9 and wait.
func zeroGraceGroup() Group {
	return Group{
		Name: "stop without grace",
		Rows: []Row{{Work: "stop without grace", Unit: "ms", Goal: Goal{Kind: AtMostMore, Bound: 50, Of: Floor}}},
		Open: func(_ context.Context, env *Env) (*Job, error) {
			return &Job{Steps: []Step{
				one(0, Ours, func(ctx context.Context) (float64, error) {
					return env.stopOurs(ctx, 1, instance.WithTimeouts(instance.Timeouts{Stop: -1}))
				}),
				one(0, Plain, func(ctx context.Context) (float64, error) { return env.stopPlain(ctx, 1, (*bare).kill) }),
				one(0, Floor, env.killLeast),
			}}, nil
		},
	}
}

func (e *Env) killLeast(ctx context.Context) (float64, error) {
	l, err := e.startLeast(ctx, spawnOptions{})
	if err != nil {
		return 0, err
	}
	began := time.Now()
	err = l.kill()
	took := time.Since(began)
	return millis(took), errors.Join(err, l.close())
}
