package main

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

var errBroken = errors.New("broken")

// slow is a run that takes a second to end, and counts.
type slow struct {
	starts, ends int
	key          any
	err          error
}

func (s *slow) run(ctx context.Context) error {
	s.starts++
	s.key = ctx.Value(key{})
	<-ctx.Done()
	time.Sleep(time.Second) //nolint:forbidigo // the clock of synctest
	s.ends++
	return s.err
}

type key struct{}

func TestStopOfNothing(t *testing.T) {
	s := NewService(nil)
	for range 2 {
		if err := s.Stop(t.Context()); err != nil {
			t.Errorf("stop of a service that was never started: %v", err)
		}
	}
	if s.Done() != nil {
		t.Error("a service that was never started is done")
	}
}

func TestStopWaitsAndTells(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		part := &slow{err: errBroken}
		s := NewService(part.run)
		start, cancel := context.WithCancel(context.WithValue(t.Context(), key{}, "value"))
		if err := s.Start(start); err != nil {
			t.Fatal(err)
		}
		cancel() // bounds the start alone
		synctest.Wait()
		if part.starts != 1 || part.ends != 0 || part.key != "value" {
			t.Fatalf("after the start: %+v", part)
		}
		if err := s.Start(t.Context()); !errors.Is(err, errStarted) {
			t.Errorf("second start: %v", err)
		}
		if err := s.Stop(t.Context()); !errors.Is(err, errBroken) || part.ends != 1 {
			t.Errorf("stop gave %v with %d ends, want what run returned, after its end", err, part.ends)
		}
		if err := s.Stop(t.Context()); err != nil {
			t.Errorf("second stop: %v", err)
		}
		if err := s.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		part.err = nil
		if err := s.Stop(t.Context()); err != nil || part.starts != 2 || part.ends != 2 {
			t.Errorf("stop of the second start: %v, %+v", err, part)
		}
	})
}

func TestStopThatIsGivenUpGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		part := &slow{}
		s := NewService(part.run)
		if err := s.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		short, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if err := s.Stop(short); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a stop that is too short: %v", err)
		}
		if err := s.Start(t.Context()); !errors.Is(err, errStarted) {
			t.Errorf("a start before the end: %v", err)
		}
		if err := s.Stop(t.Context()); err != nil || part.ends != 1 {
			t.Errorf("the stop after that: %v with %d ends", err, part.ends)
		}
	})
}

func TestStartAfterItsContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errBroken)
	part := &slow{}
	if err := NewService(part.run).Start(ctx); !errors.Is(err, errBroken) || part.starts != 0 {
		t.Errorf("start gave %v and ran %d times, want the cause and none", err, part.starts)
	}
}

func TestEndByItselfIsTold(t *testing.T) {
	s := NewService(func(context.Context) error { return errBroken })
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-s.Done()
	if err := s.Stop(t.Context()); !errors.Is(err, errBroken) {
		t.Errorf("stop gave %v, want why it ended", err)
	}
}

func TestStartAndStopFromManyGoroutines(t *testing.T) {
	var mu sync.Mutex
	running, most := 0, 0
	s := NewService(func(ctx context.Context) error {
		mu.Lock()
		running++
		most = max(most, running)
		mu.Unlock()
		<-ctx.Done()
		mu.Lock()
		running--
		mu.Unlock()
		return nil
	})
	var callers sync.WaitGroup
	for range 8 {
		callers.Go(func() {
			for range 50 {
				if err := s.Start(t.Context()); err != nil && !errors.Is(err, errStarted) {
					t.Errorf("start: %v", err)
				}
				if err := s.Stop(t.Context()); err != nil {
					t.Errorf("stop: %v", err)
				}
			}
		})
	}
	callers.Wait()
	if err := s.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if running != 0 || most != 1 {
		t.Errorf("%d still run, %d ran at once; want 0 and 1", running, most)
	}
}
