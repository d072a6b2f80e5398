package emit

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/osqvisor/osqvisor/stats"
)

// shipped is an event with a number.
func shipped(n int) stats.Event {
	return stats.LogsDelivered{Head: stats.Head{Instance: "a", Run: "r"}, Lines: n}
}

type seen struct {
	mu     sync.Mutex
	events []stats.Event
}

func (s *seen) Observe(_ context.Context, e stats.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, e)
}

func (s *seen) lines() []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []int
	for _, e := range s.events {
		if l, ok := e.(stats.LogsDelivered); ok {
			out = append(out, l.Lines)
		}
	}
	return out
}

func (s *seen) panics() []stats.PanicCaught {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []stats.PanicCaught
	for _, e := range s.events {
		if p, ok := e.(stats.PanicCaught); ok {
			out = append(out, p)
		}
	}
	return out
}

func wantLines(t *testing.T, s *seen, want ...int) {
	t.Helper()
	if got := s.lines(); !slices.Equal(got, want) {
		t.Errorf("delivered %v, want %v", got, want)
	}
}

// settle waits until all is delivered.
func flush(t *testing.T, e *Emitter) {
	t.Helper()
	if err := e.Flush(t.Context(), time.Minute); err != nil {
		t.Fatal(err)
	}
}

func TestFirstIsToldAtOnceAndTheOthersBySettle(t *testing.T) {
	var first, a, b seen
	gate := make(chan struct{})
	block := stats.ObserverFunc(func(context.Context, stats.Event) { <-gate })
	e := New(&first, block, &a, nil, &b)
	e.Emit(t.Context(), shipped(1))
	e.Emit(t.Context(), nil)
	e.Emit(t.Context(), shipped(2))
	wantLines(t, &first, 1, 2)
	wantLines(t, &a)
	close(gate)
	flush(t, e)
	wantLines(t, &a, 1, 2)
	wantLines(t, &b, 1, 2)
	if err := e.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestEmitFromAnObserverQueues(t *testing.T) {
	var got seen
	var e *Emitter
	first := stats.ObserverFunc(func(ctx context.Context, ev stats.Event) {
		if l, ok := ev.(stats.LogsDelivered); ok && l.Lines < 3 {
			e.Emit(ctx, shipped(l.Lines+1))
			dropped(e) // would deadlock if a lock were held
		}
	})
	e = New(nil, first, &got)
	e.Emit(t.Context(), shipped(1))
	for range 3 { // each event is emitted before the one before it is out of the way
		flush(t, e)
	}
	wantLines(t, &got, 1, 2, 3)
}

func TestEmitNeverWaitsForAnObserver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got seen
		gate := make(chan struct{})
		block := stats.ObserverFunc(func(context.Context, stats.Event) { <-gate })
		e := New(nil, block, &got)
		e.Emit(t.Context(), shipped(1))
		synctest.Wait()
		e.Emit(t.Context(), shipped(2)) // a hang here is a deadlock to synctest
		e.Emit(t.Context(), shipped(3))
		wantLines(t, &got)
		close(gate)
		synctest.Wait()
		wantLines(t, &got, 1, 2, 3)
	})
}

func TestEmitKeepsTheOrderOfEachCaller(t *testing.T) {
	const callers, each = 8, 200
	inside := 0 // unguarded: the race detector proves one call at a time
	last := make(map[string]int)
	e := New(nil, stats.ObserverFunc(func(_ context.Context, ev stats.Event) {
		inside++
		l := ev.(stats.LogsDelivered)
		if l.Lines != last[l.Run]+1 {
			t.Errorf("caller %s: %d after %d", l.Run, l.Lines, last[l.Run])
		}
		last[l.Run] = l.Lines
	}))
	e.capacity = callers * each
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			for n := range each {
				e.Emit(t.Context(), stats.LogsDelivered{Head: stats.Head{Run: string(rune('a' + c))}, Lines: n + 1})
			}
		})
	}
	wg.Wait()
	if err := e.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if inside != callers*each || dropped(e) != 0 {
		t.Errorf("%d delivered, %d dropped, want %d and 0", inside, dropped(e), callers*each)
	}
}

func TestOverflowDropsTheOldestAndCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got seen
		gate := make(chan struct{})
		block := stats.ObserverFunc(func(context.Context, stats.Event) { <-gate })
		e := New(nil, block, &got)
		e.capacity = 2
		e.Emit(t.Context(), shipped(1))
		synctest.Wait()
		for n := 2; n <= 5; n++ {
			e.Emit(t.Context(), shipped(n))
		}
		close(gate)
		synctest.Wait()
		wantLines(t, &got, 1, 4, 5)
		if dropped(e) != 2 {
			t.Errorf("dropped %d, want 2", dropped(e))
		}
	})
}

func TestPanicIsReportedToTheOthers(t *testing.T) {
	var first, before, after seen
	calls := 0
	bad := stats.ObserverFunc(func(context.Context, stats.Event) {
		calls++
		panic(strings.Repeat("é", 1000))
	})
	e := New(&first, &before, bad, &after)
	e.Emit(t.Context(), shipped(1))
	flush(t, e)
	for _, s := range []*seen{&first, &before, &after} {
		wantLines(t, s, 1)
		p := s.panics()
		if len(p) != 1 {
			t.Fatalf("%d reports, want 1", len(p))
		}
		if p[0].Where != "observer" || p[0].Instance != "a" || p[0].Run != "r" || p[0].Time.IsZero() {
			t.Errorf("report %+v", p[0].Head)
		}
		if len(p[0].Value) != maxValue || !strings.Contains(p[0].Stack, "emit_test.go") {
			t.Errorf("value of %d bytes, stack %q", len(p[0].Value), p[0].Stack)
		}
	}
	if calls != 1 || panics(e) != 1 {
		t.Errorf("called %d times, %d panics, want 1 and 1", calls, panics(e))
	}
}

func TestPanicOverAReportEndsThere(t *testing.T) {
	calls := 0
	bad := stats.ObserverFunc(func(context.Context, stats.Event) { calls++; panic("no") })
	e := New(nil, bad, bad)
	e.Emit(t.Context(), shipped(1))
	flush(t, e)
	// One event makes two panics; each report makes the other observer panic.
	if calls != 4 || panics(e) != 4 {
		t.Errorf("called %d times, %d panics, want 4 and 4", calls, panics(e))
	}
}

func TestGoexitOfAnObserverStopsNobodyElse(t *testing.T) {
	var got seen
	exit := stats.ObserverFunc(func(_ context.Context, ev stats.Event) {
		if ev.(stats.LogsDelivered).Lines == 1 {
			runtime.Goexit()
		}
	})
	e := New(nil, exit, &got)
	e.Emit(t.Context(), shipped(1))
	e.Emit(t.Context(), shipped(2))
	flush(t, e)
	wantLines(t, &got, 2)
	if err := e.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

type key struct{}

func dropped(e *Emitter) uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.dropped
}

func panics(e *Emitter) uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.panics
}

func TestContextOfAnObserver(t *testing.T) {
	var got context.Context
	e := New(nil, stats.ObserverFunc(func(ctx context.Context, _ stats.Event) { got = ctx }))
	values, cancel := context.WithTimeout(context.WithValue(t.Context(), key{}, "v"), time.Hour)
	defer cancel()
	caller, stop := context.WithCancelCause(values)
	stop(errors.New("the caller's"))
	e.Emit(caller, shipped(1))
	flush(t, e)
	if got.Value(key{}) != "v" {
		t.Error("the values of the caller are gone")
	}
	if _, ok := got.Deadline(); ok {
		t.Error("it has a deadline")
	}
	if got.Err() != nil || context.Cause(got) != nil {
		t.Errorf("it ended with the caller's: %v", context.Cause(got))
	}
	if err := e.Close(t.Context()); err != nil || !errors.Is(context.Cause(got), context.Canceled) {
		t.Errorf("it outlives the emitter's: %v, %v", context.Cause(got), err)
	}
}

func TestSettleEndsTheContextOfASlowObserver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var first, got seen
		slow := stats.ObserverFunc(func(ctx context.Context, ev stats.Event) {
			if ev.(stats.LogsDelivered).Lines == 1 {
				<-ctx.Done()
			}
		})
		e := New(&first, slow, &got)
		e.Emit(t.Context(), shipped(1))
		e.Emit(t.Context(), shipped(2))
		began := time.Now()
		if err := e.Flush(t.Context(), time.Second); !errors.Is(err, errSlow) {
			t.Errorf("Settle: %v, want %v", err, errSlow)
		}
		if took := time.Since(began); took != time.Second {
			t.Errorf("it took %v, want its patience", took)
		}
		wantLines(t, &first, 1, 2)
		wantLines(t, &got) // neither the rest of the one under way
		if dropped(e) != 2 {
			t.Errorf("dropped %d, want 2", dropped(e))
		}
		e.Emit(t.Context(), shipped(3)) // the next run, with a context of its own
		flush(t, e)
		wantLines(t, &got, 3)
	})
}

func TestSettleWaitsOnceForAnObserverThatNeverReturns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got seen
		gate := make(chan struct{})
		e := New(nil, stats.ObserverFunc(func(context.Context, stats.Event) { <-gate }), &got)
		e.Emit(t.Context(), shipped(1))
		synctest.Wait()
		for _, want := range []time.Duration{2 * time.Second, 0} {
			began := time.Now()
			if err := e.Flush(t.Context(), time.Second); !errors.Is(err, errStuck) {
				t.Errorf("Settle: %v, want %v", err, errStuck)
			}
			if took := time.Since(began); took != want {
				t.Errorf("it took %v, want %v", took, want)
			}
		}
		close(gate)
		synctest.Wait()
		e.Emit(t.Context(), shipped(2))
		flush(t, e)
		wantLines(t, &got, 2)
	})
}

func TestCloseDoesNotWaitForWhoWasGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		defer close(gate)
		e := New(nil, stats.ObserverFunc(func(context.Context, stats.Event) { <-gate }))
		e.Emit(t.Context(), shipped(1))
		if err := e.Flush(t.Context(), time.Second); !errors.Is(err, errStuck) {
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
		e := New(nil, stats.ObserverFunc(func(context.Context, stats.Event) { <-gate }))
		e.capacity = 2
		e.Emit(t.Context(), shipped(1))
		synctest.Wait()
		for n := 2; n <= 6; n++ {
			e.Emit(t.Context(), shipped(n))
		}
		close(gate)
		if err := e.Flush(t.Context(), time.Minute); !errors.Is(err, errFull) || !strings.Contains(err.Error(), "3 events") {
			t.Errorf("Settle: %v, want %v: 3 events", err, errFull)
		}
		flush(t, e)
	})
}

// What is emitted while it waits is not waited for: it may never end.
func TestSettleWaitsForWhatWasBeforeIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gates := map[int]chan struct{}{1: make(chan struct{}), 2: make(chan struct{})}
		var e *Emitter
		e = New(nil, stats.ObserverFunc(func(ctx context.Context, ev stats.Event) {
			if err := e.Flush(ctx, time.Hour); err != nil { // inside: nothing to wait for
				t.Error(err)
			}
			<-gates[ev.(stats.LogsDelivered).Lines]
		}))
		e.Emit(t.Context(), shipped(1))
		settled := make(chan error, 1)
		go func() { settled <- e.Flush(t.Context(), time.Minute) }()
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
		flush(t, e)
	})
}

func TestPanicOfTheFirstIsReported(t *testing.T) {
	var got seen
	e := New(stats.ObserverFunc(func(context.Context, stats.Event) { panic("no") }), &got)
	e.Emit(t.Context(), shipped(1))
	flush(t, e)
	wantLines(t, &got, 1)
	if len(got.panics()) != 1 || panics(e) != 2 {
		t.Errorf("%d reports, %d panics, want 1 and 2", len(got.panics()), panics(e))
	}
}

func TestCloseDeliversWhatIsQueuedAndDropsTheRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got seen
		gate := make(chan struct{})
		block := stats.ObserverFunc(func(context.Context, stats.Event) { <-gate })
		e := New(nil, block, &got)
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
		if dropped(e) != 2 {
			t.Errorf("dropped %d, want 2", dropped(e))
		}
	})
}

func TestCloseIsBoundedByItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got seen
		gate := make(chan struct{})
		var handed context.Context
		block := stats.ObserverFunc(func(ctx context.Context, _ stats.Event) { handed = ctx; <-gate })
		e := New(nil, block, &got)
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
		if dropped(e) != 2 {
			t.Errorf("dropped %d, want 2", dropped(e))
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
		e = New(nil, closer, &got)
		e.Emit(t.Context(), shipped(1))
		synctest.Wait() // a deadlock fails the test
		if inner != nil {
			t.Errorf("Close inside: %v", inner)
		}
		wantLines(t, &got)
		if handed.Err() == nil || dropped(e) != 2 {
			t.Errorf("context %v, dropped %d, want it ended and 2", handed.Err(), dropped(e))
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
		e := New(nil, stats.ObserverFunc(func(ctx context.Context, ev stats.Event) {
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
		other := New(nil, stats.ObserverFunc(func(context.Context, stats.Event) { <-gate }))
		other.Emit(t.Context(), shipped(1))
		synctest.Wait()
		closed := make(chan error, 1)
		e := New(nil, stats.ObserverFunc(func(ctx context.Context, _ stats.Event) {
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
