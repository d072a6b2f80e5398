package emit

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/osqvisor/osqvisor/stats"
)

func TestSettleEndsTheContextOfASlowObserver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var first, got seen
		slow := stats.ObserverFunc(func(ctx context.Context, ev stats.Event) {
			if ev.(stats.LogsDelivered).Lines == 1 {
				<-ctx.Done()
			}
		})
		e := New(t.Context(), 0, &first, slow, &got)
		e.Emit(t.Context(), shipped(1))
		e.Emit(t.Context(), shipped(2))
		began := time.Now()
		if err := e.Settle(t.Context(), time.Second); !errors.Is(err, errSlow) {
			t.Errorf("Settle: %v, want %v", err, errSlow)
		}
		if took := time.Since(began); took != time.Second {
			t.Errorf("it took %v, want its patience", took)
		}
		wantLines(t, &first, 1, 2)
		wantLines(t, &got) // neither the rest of the one under way
		if e.Dropped() != 2 {
			t.Errorf("dropped %d, want 2", e.Dropped())
		}
		e.Emit(t.Context(), shipped(3)) // the next run, with a context of its own
		settle(t, e)
		wantLines(t, &got, 3)
	})
}

func TestSettleWaitsOnceForAnObserverThatNeverReturns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got seen
		gate := make(chan struct{})
		e := New(t.Context(), 0, nil, stats.ObserverFunc(func(context.Context, stats.Event) { <-gate }), &got)
		e.Emit(t.Context(), shipped(1))
		synctest.Wait()
		for _, want := range []time.Duration{2 * time.Second, 0} {
			began := time.Now()
			if err := e.Settle(t.Context(), time.Second); !errors.Is(err, errStuck) {
				t.Errorf("Settle: %v, want %v", err, errStuck)
			}
			if took := time.Since(began); took != want {
				t.Errorf("it took %v, want %v", took, want)
			}
		}
		close(gate)
		synctest.Wait()
		e.Emit(t.Context(), shipped(2))
		settle(t, e)
		wantLines(t, &got, 2)
	})
}

func TestCloseDoesNotWaitForWhoWasGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		defer close(gate)
		e := New(t.Context(), 0, nil, stats.ObserverFunc(func(context.Context, stats.Event) { <-gate }))
		e.Emit(t.Context(), shipped(1))
		if err := e.Settle(t.Context(), time.Second); !errors.Is(err, errStuck) {
			t.Errorf("Settle: %v, want %v", err, errStuck)
		}
		began := time.Now()
		if err := e.Close(t.Context()); !errors.Is(err, errStuck) || time.Since(began) > 0 {
			t.Errorf("Close: %v after %v, want %v at once", err, time.Since(began), errStuck)
		}
	})
}

// Events that a slow observer never saw are told of, once.
func TestSettleTellsWhatWasDroppedForWantOfRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		e := New(t.Context(), 2, nil, stats.ObserverFunc(func(context.Context, stats.Event) { <-gate }))
		e.Emit(t.Context(), shipped(1))
		synctest.Wait()
		for n := 2; n <= 6; n++ {
			e.Emit(t.Context(), shipped(n))
		}
		close(gate)
		if err := e.Settle(t.Context(), time.Minute); !errors.Is(err, errFull) || !strings.Contains(err.Error(), "3 events") {
			t.Errorf("Settle: %v, want %v: 3 events", err, errFull)
		}
		settle(t, e)
	})
}

// What is emitted while it waits is not waited for: it may never end.
func TestSettleWaitsForWhatWasBeforeIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gates := map[int]chan struct{}{1: make(chan struct{}), 2: make(chan struct{})}
		var e *Emitter
		e = New(t.Context(), 0, nil, stats.ObserverFunc(func(ctx context.Context, ev stats.Event) {
			if err := e.Settle(ctx, time.Hour); err != nil { // inside: nothing to wait for
				t.Error(err)
			}
			<-gates[ev.(stats.LogsDelivered).Lines]
		}))
		e.Emit(t.Context(), shipped(1))
		settled := make(chan error, 1)
		go func() { settled <- e.Settle(t.Context(), time.Minute) }()
		synctest.Wait()
		e.Emit(t.Context(), shipped(2))
		if len(settled) != 0 {
			t.Error("Settle returned while an observer ran")
		}
		close(gates[1])
		if err := <-settled; err != nil {
			t.Error(err)
		}
		close(gates[2])
		settle(t, e)
	})
}

func TestPanicOfTheFirstIsReported(t *testing.T) {
	var got seen
	e := New(t.Context(), 0, stats.ObserverFunc(func(context.Context, stats.Event) { panic("no") }), &got)
	e.Emit(t.Context(), shipped(1))
	settle(t, e)
	wantLines(t, &got, 1)
	if len(got.panics()) != 1 || e.Panics() != 2 {
		t.Errorf("%d reports, %d panics, want 1 and 2", len(got.panics()), e.Panics())
	}
}
