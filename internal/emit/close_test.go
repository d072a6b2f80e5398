package emit

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/osqvisor/osqvisor/stats"
)

func TestCloseDeliversWhatIsQueuedAndDropsTheRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got seen
		gate := make(chan struct{})
		block := stats.ObserverFunc(func(context.Context, stats.Event) { <-gate })
		e := New(t.Context(), 0, nil, block, &got)
		e.Emit(t.Context(), shipped(1))
		synctest.Wait()
		e.Emit(t.Context(), shipped(2))
		closed := make(chan error, 2)
		for range 2 {
			go func() { closed <- e.Close(t.Context()) }()
		}
		synctest.Wait()
		if len(closed) != 0 {
			t.Error("Close returned while an observer ran")
		}
		e.Emit(t.Context(), shipped(3))
		close(gate)
		for range 2 {
			if err := <-closed; err != nil {
				t.Error(err)
			}
		}
		wantLines(t, &got, 1, 2)
		e.Emit(t.Context(), shipped(4))
		wantLines(t, &got, 1, 2)
		if e.Dropped() != 2 {
			t.Errorf("dropped %d, want 2", e.Dropped())
		}
	})
}

func TestCloseIsBoundedByItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got seen
		gate := make(chan struct{})
		var handed context.Context
		block := stats.ObserverFunc(func(ctx context.Context, _ stats.Event) { handed = ctx; <-gate })
		e := New(t.Context(), 0, nil, block, &got)
		e.Emit(t.Context(), shipped(1))
		synctest.Wait()
		e.Emit(t.Context(), shipped(2))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := e.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Close: %v, want the deadline", err)
		}
		if handed.Err() == nil {
			t.Error("the observer was not told to return")
		}
		close(gate)
		if err := e.Close(t.Context()); err != nil {
			t.Errorf("second Close: %v", err)
		}
		wantLines(t, &got) // not even the rest of the event that was under way
		if e.Dropped() != 2 {
			t.Errorf("dropped %d, want 2", e.Dropped())
		}
	})
}

func TestCloseFromAnObserver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got seen
		var e *Emitter
		var inner error
		var handed context.Context
		closer := stats.ObserverFunc(func(ctx context.Context, _ stats.Event) {
			handed = ctx
			e.Emit(ctx, shipped(2))
			child, cancel := context.WithCancel(ctx)
			defer cancel()
			inner = e.Close(child)
		})
		e = New(t.Context(), 0, nil, closer, &got)
		e.Emit(t.Context(), shipped(1))
		synctest.Wait() // a deadlock fails the test
		if inner != nil {
			t.Errorf("Close inside: %v", inner)
		}
		wantLines(t, &got)
		if handed.Err() == nil || e.Dropped() != 2 {
			t.Errorf("context %v, dropped %d, want it ended and 2", handed.Err(), e.Dropped())
		}
		if err := e.Close(t.Context()); err != nil {
			t.Errorf("Close outside: %v", err)
		}
	})
}

// A context that an observer kept is no excuse once the observer has returned.
func TestCloseWithAKeptContextWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		var kept context.Context
		e := New(t.Context(), 0, nil, stats.ObserverFunc(func(ctx context.Context, ev stats.Event) {
			if ev.(stats.LogsDelivered).Lines == 1 {
				kept = ctx
				return
			}
			<-gate
		}))
		e.Emit(t.Context(), shipped(1))
		e.Emit(t.Context(), shipped(2))
		synctest.Wait()
		closed := make(chan error, 1)
		go func() { closed <- e.Close(kept) }()
		synctest.Wait()
		if len(closed) != 0 {
			t.Error("Close did not wait")
		}
		close(gate)
		if err := <-closed; err != nil {
			t.Error(err)
		}
	})
}

// One emitter's observer closes another emitter: that one waits.
func TestCloseOfAnotherEmitterWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		other := New(t.Context(), 0, nil, stats.ObserverFunc(func(context.Context, stats.Event) { <-gate }))
		other.Emit(t.Context(), shipped(1))
		synctest.Wait()
		closed := make(chan error, 1)
		e := New(t.Context(), 0, nil, stats.ObserverFunc(func(ctx context.Context, _ stats.Event) {
			closed <- other.Close(ctx)
		}))
		e.Emit(t.Context(), shipped(1))
		synctest.Wait()
		if len(closed) != 0 {
			t.Error("Close did not wait")
		}
		close(gate)
		synctest.Wait()
		if err := <-closed; err != nil {
			t.Error(err)
		}
	})
}
