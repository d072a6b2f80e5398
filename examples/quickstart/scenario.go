package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/runtime"
)

// stepTimeout bounds each step: a real osqueryd on a busy machine needs some seconds.
const stepTimeout = 90 * time.Second

// When the steps are taken, as parts of -for. A step that the one before holds up
// follows it at once.
const (
	atJoin   = 0.15
	atKill   = 0.35
	atRemove = 0.70
)

// scenario is the tour itself.
type scenario struct {
	runner *runtime.Runner
	view   *screen
	seen   *processes
	rep    *report
	length time.Duration

	begin time.Time
}

// life tells one life of an instance from another: nothing of it stays the same
// when its osqueryd is started again.
type life struct {
	id      string
	run     string
	watcher int // the process that we started
	worker  int // the process that the watcher started, which answers queries
}

// play takes the steps one after the other, and waits until -for is over.
func (s *scenario) play(ctx context.Context) error {
	s.begin = time.Now()
	late := time.AfterFunc(s.length, func() {
		s.view.say("-for %v is shorter than the tour, which is finished first", s.length)
	})
	defer late.Stop()
	if err := s.steps(ctx); err != nil {
		if ctx.Err() != nil {
			return errInterrupted
		}
		return err
	}
	if late.Stop() {
		s.view.say("the tour is over; stopping at %v, or at Ctrl-C", s.length)
	}
	_ = s.pause(ctx, 1) // Ctrl-C is as good an end as any
	return nil
}

func (s *scenario) steps(ctx context.Context) error {
	vendor, err := s.meet(ctx, "vendor")
	if err != nil {
		return err
	}
	tenantA, err := s.meet(ctx, "tenant-a")
	if err != nil {
		return err
	}
	if err := s.pause(ctx, atJoin); err != nil {
		return err
	}
	s.view.say("tenant-b  is added while the others run")
	if err := s.runner.Add("tenant-b"); err != nil {
		return err
	}
	tenantB, err := s.meet(ctx, "tenant-b")
	if err != nil {
		return err
	}
	s.view.sayTable()
	if err := s.pause(ctx, atKill); err != nil {
		return err
	}
	if err := s.kill(ctx, tenantA); err != nil {
		return err
	}
	if err := s.pause(ctx, atRemove); err != nil {
		return err
	}
	s.view.sayTable()
	if err := s.compare(ctx, vendor, tenantB); err != nil {
		return err
	}
	return s.remove(ctx, "tenant-b")
}

// meet waits until a new instance is ready, and asks it.
func (s *scenario) meet(ctx context.Context, id string) (life, error) {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	if err := s.runner.WaitReady(ctx, id); err != nil {
		return life{}, err
	}
	l, err := s.ask(ctx, id)
	if err != nil {
		return life{}, err
	}
	s.rep.Instances++
	s.view.say("%-8s  answers: watcher is pid %d, worker pid %d", id, l.watcher, l.worker)
	return l, nil
}

// ask queries an instance for its worker's pid.
func (s *scenario) ask(ctx context.Context, id string) (life, error) {
	rows, err := s.runner.Query(ctx, id, "select pid, version from osquery_info")
	if err != nil {
		return life{}, err
	}
	text := rows.Row(0).Get("pid")
	worker, err := strconv.Atoi(text)
	if err != nil {
		return life{}, fmt.Errorf("%s: osquery_info gave the pid %q", id, text)
	}
	s.rep.Queries++
	s.rep.Version = rows.Row(0).Get("version")
	s.seen.add(worker)
	snapshot, err := s.runner.Snapshot(id)
	if err != nil {
		return life{}, err
	}
	if snapshot.Run == nil {
		return life{}, fmt.Errorf("%s: %w", id, instance.ErrNotRunning)
	}
	return life{id: id, run: snapshot.Run.ID, watcher: snapshot.Run.PID, worker: worker}, nil
}

// kill ends an instance's osqueryd as if it had crashed, and measures how long it
// takes until a query is answered again.
func (s *scenario) kill(ctx context.Context, old life) error {
	id := old.id
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	process, err := os.FindProcess(old.watcher)
	if err != nil {
		return fmt.Errorf("kill %s: %w", id, err)
	}
	s.view.say("%-8s  is killed: SIGKILL to pid %d", id, old.watcher)
	killed := time.Now()
	if err := process.Kill(); err != nil {
		return fmt.Errorf("kill %s: %w", id, err)
	}
	if err := s.recover(ctx, old); err != nil {
		return fmt.Errorf("%s did not recover: %w", id, err)
	}
	recovery := time.Since(killed)
	s.rep.RecoveryMS = recovery.Milliseconds()
	snapshot, err := s.runner.Snapshot(id)
	if err != nil {
		return err
	}
	if len(snapshot.History) == 0 {
		return fmt.Errorf("%s: the run that was killed is not in its history", id)
	}
	s.view.say("%-8s  answers again %v after it was killed; the cause was: %s",
		id, recovery.Round(time.Millisecond), snapshot.History[0].Cause)
	return nil
}

// recover waits until the old run is over, the new one is ready, and it answers.
func (s *scenario) recover(ctx context.Context, old life) error {
	in, err := s.runner.Instance(old.id)
	if err != nil {
		return err
	}
	if err := in.WaitRunOver(ctx, old.run); err != nil {
		return err
	}
	if err := s.runner.WaitReady(ctx, old.id); err != nil {
		return err
	}
	_, err = s.ask(ctx, old.id)
	return err
}

// compare asks instances whether they still live the life that they had.
func (s *scenario) compare(ctx context.Context, before ...life) error {
	s.rep.Untouched = true
	for _, was := range before {
		is, err := s.ask(ctx, was.id)
		if err != nil {
			return err
		}
		if is != was {
			s.rep.Untouched = false
			s.view.say("%-8s  was touched: %+v became %+v", was.id, was, is)
			continue
		}
		s.view.say("%-8s  did not notice: still pids %d and %d", is.id, is.watcher, is.worker)
	}
	return nil
}

// remove takes an instance out. What it counted goes with it.
func (s *scenario) remove(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	snapshot, err := s.runner.Snapshot(id)
	if err != nil {
		return err
	}
	s.view.say("%-8s  is removed", id)
	if err := s.runner.Remove(ctx, id); err != nil {
		return err
	}
	s.rep.Restarts += snapshot.Totals.Restarts // of those that stay, the Runner knows
	if _, err := s.runner.Snapshot(id); !errors.Is(err, runtime.ErrNotFound) {
		return fmt.Errorf("%s was removed and is still there: %w", id, err)
	}
	return nil
}

// pause waits until a part of -for is over.
func (s *scenario) pause(ctx context.Context, part float64) error {
	timer := time.NewTimer(time.Until(s.begin.Add(time.Duration(part * float64(s.length)))))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
