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
func settle(t *testing.T, e *Emitter) {
	t.Helper()
	if err := e.Settle(t.Context(), time.Minute); err != nil {
		t.Fatal(err)
	}
}

func TestFirstIsToldAtOnceAndTheOthersBySettle(t *testing.T) {
	var first, a, b seen
	gate := make(chan struct{})
	block := stats.ObserverFunc(func(context.Context, stats.Event) { <-gate })
	e := New(t.Context(), 0, &first, block, &a, nil, &b)
	e.Emit(t.Context(), shipped(1))
	e.Emit(t.Context(), nil)
	e.Emit(t.Context(), shipped(2))
	wantLines(t, &first, 1, 2)
	wantLines(t, &a)
	close(gate)
	settle(t, e)
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
			e.Dropped() // would deadlock if a lock were held
		}
	})
	e = New(t.Context(), 0, nil, first, &got)
	e.Emit(t.Context(), shipped(1))
	for range 3 { // each event is emitted before the one before it is out of the way
		settle(t, e)
	}
	wantLines(t, &got, 1, 2, 3)
}

func TestEmitNeverWaitsForAnObserver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got seen
		gate := make(chan struct{})
		block := stats.ObserverFunc(func(context.Context, stats.Event) { <-gate })
		e := New(t.Context(), 0, nil, block, &got)
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
	e := New(t.Context(), callers*each, nil, stats.ObserverFunc(func(_ context.Context, ev stats.Event) {
		inside++
		l := ev.(stats.LogsDelivered)
		if l.Lines != last[l.Run]+1 {
			t.Errorf("caller %s: %d after %d", l.Run, l.Lines, last[l.Run])
		}
		last[l.Run] = l.Lines
	}))
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
	if inside != callers*each || e.Dropped() != 0 {
		t.Errorf("%d delivered, %d dropped, want %d and 0", inside, e.Dropped(), callers*each)
	}
}

func TestOverflowDropsTheOldestAndCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got seen
		gate := make(chan struct{})
		block := stats.ObserverFunc(func(context.Context, stats.Event) { <-gate })
		e := New(t.Context(), 2, nil, block, &got)
		e.Emit(t.Context(), shipped(1))
		synctest.Wait()
		for n := 2; n <= 5; n++ {
			e.Emit(t.Context(), shipped(n))
		}
		close(gate)
		synctest.Wait()
		wantLines(t, &got, 1, 4, 5)
		if e.Dropped() != 2 {
			t.Errorf("dropped %d, want 2", e.Dropped())
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
	e := New(t.Context(), 0, &first, &before, bad, &after)
	e.Emit(t.Context(), shipped(1))
	settle(t, e)
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
	if calls != 1 || e.Panics() != 1 {
		t.Errorf("called %d times, %d panics, want 1 and 1", calls, e.Panics())
	}
}

func TestPanicOverAReportEndsThere(t *testing.T) {
	calls := 0
	bad := stats.ObserverFunc(func(context.Context, stats.Event) { calls++; panic("no") })
	e := New(t.Context(), 0, nil, bad, bad)
	e.Emit(t.Context(), shipped(1))
	settle(t, e)
	// One event makes two panics; each report makes the other observer panic.
	if calls != 4 || e.Panics() != 4 {
		t.Errorf("called %d times, %d panics, want 4 and 4", calls, e.Panics())
	}
}

func TestGoexitOfAnObserverStopsNobodyElse(t *testing.T) {
	var got seen
	exit := stats.ObserverFunc(func(_ context.Context, ev stats.Event) {
		if ev.(stats.LogsDelivered).Lines == 1 {
			runtime.Goexit()
		}
	})
	e := New(t.Context(), 0, nil, exit, &got)
	e.Emit(t.Context(), shipped(1))
	e.Emit(t.Context(), shipped(2))
	settle(t, e)
	wantLines(t, &got, 2)
	if err := e.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

type key struct{}

func TestContextOfAnObserver(t *testing.T) {
	base, cancel := context.WithTimeoutCause(t.Context(), time.Hour, errors.New("unused"))
	defer cancel()
	var got context.Context
	e := New(base, 0, nil, stats.ObserverFunc(func(ctx context.Context, _ stats.Event) { got = ctx }))
	caller, stop := context.WithCancelCause(context.WithValue(t.Context(), key{}, "v"))
	stop(errors.New("the caller's"))
	e.Emit(caller, shipped(1))
	settle(t, e)
	if got.Value(key{}) != "v" {
		t.Error("the values of the caller are gone")
	}
	if _, ok := got.Deadline(); ok {
		t.Error("it has a deadline")
	}
	if got.Err() != nil || context.Cause(got) != nil {
		t.Errorf("it ended with the caller's: %v", context.Cause(got))
	}
	cancel()
	if !errors.Is(context.Cause(got), context.Canceled) {
		t.Errorf("it outlives the instance's: %v", context.Cause(got))
	}
}
