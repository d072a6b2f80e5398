package bench

import (
	"context"
	"errors"
	"time"
)

// killGroupRows measures from kill -9 of an osqueryd without watchdog to the next
// query answered by its successor.
func killGroupRows() Group {
	return Group{
		Name: "kill -9 of osqueryd",
		Rows: []Row{{Work: "kill -9 of osqueryd to query answered", Unit: "ms", Goal: Goal{Kind: AtMostTimes, Bound: 1.25, Of: Floor}}},
		Open: openKill,
	}
}

func openKill(ctx context.Context, env *Env) (*Job, error) {
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
	return &Job{
		Steps: []Step{
			one(0, Ours, s.killed),
			one(0, Floor, func(ctx context.Context) (took float64, err error) {
				l, took, err = l.killed(ctx, env)
				return took, err
			}),
			one(0, Plain, func(ctx context.Context) (took float64, err error) {
				p, took, err = p.killed(ctx, env)
				return took, err
			}),
		},
		Close: func() { _ = errors.Join(s.stop(), l.close(), p.close()) },
	}, nil
}

// killed returns the time from the kill until a query was answered.
func (s *set) killed(ctx context.Context) (float64, error) {
	old, err := s.pid()
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if err := killPID(old); err != nil {
		return 0, err
	}
	err = until(ctx, func() error {
		if _, err := s.query(ctx, "select 1"); err != nil {
			return err
		}
		pid, err := s.pid()
		if err == nil && (pid == old || pid == 0) {
			err = errors.New("the old osqueryd answered")
		}
		return err
	})
	return millis(time.Since(began)), err
}

func (l *least) killed(ctx context.Context, env *Env) (*least, float64, error) {
	began := time.Now()
	if err := killPID(l.cmd.Process.Pid); err != nil {
		return l, 0, err
	}
	<-l.exited
	next, err := env.startLeast(ctx, spawnOptions{dir: l.dir})
	if err != nil {
		return l, 0, err
	}
	_, err = next.conn.Query(ctx, "select 1")
	took := millis(time.Since(began))
	return next, took, errors.Join(err, l.close())
}

func (p *plain) killed(ctx context.Context, env *Env) (*plain, float64, error) {
	began := time.Now()
	if err := killPID(p.cmd.Process.Pid); err != nil {
		return p, 0, err
	}
	<-p.exited
	next, err := env.startPlain(ctx, spawnOptions{dir: p.dir})
	if err != nil {
		return p, 0, err
	}
	err = next.query("select 1")
	took := millis(time.Since(began))
	return next, took, errors.Join(err, p.close())
}
