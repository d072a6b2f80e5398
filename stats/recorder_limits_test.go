package stats

import (
	"fmt"
	"sync"
	"testing"
)

// A run that ended stays ended: by the history, and without one by its id.
func TestRecorderKnowsTheRunsThatEnded(t *testing.T) {
	ended := func(s int, id string) []Event {
		return []Event{RunStarting{Head: at(s, id)}, RunEnded{Head: at(s+1, id), Cause: CauseRequested}}
	}
	for name, s := range map[string]Snapshot{
		"no history": observe(t, newRecorder(t, WithHistory(0)),
			append(ended(1, "r1"), RunReady{Head: at(9, "r1")})...),
		"the run before the last": observe(t, newRecorder(t),
			append(append(ended(1, "r1"), ended(3, "r2")...), RunReady{Head: at(9, "r1")})...),
	} {
		if s.State != StateStopped || s.Run != nil {
			t.Errorf("%s: state %s, run %v", name, s.State, s.Run)
		}
	}
}

// reentrant is an error whose text needs the Recorder.
type reentrant struct{ r *Recorder }

func (e reentrant) Error() string { return string(e.r.Snapshot().State) }

func TestRecorderHoldsNoLockWhileAnErrorIsPrinted(t *testing.T) {
	r := newRecorder(t)
	s := observe(t, r, RunStarting{Head: at(1, "r1")}, RunReady{Head: at(2, "r1")}, HealthFailed{Head: at(3, "r1"), Err: reentrant{r}})
	if s.LastError != "ready" {
		t.Errorf("last error %q", s.LastError)
	}
}

func TestRecorderConcurrently(t *testing.T) {
	const n = 200
	r := newRecorder(t)
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range n {
				id := fmt.Sprintf("%d-%d", w, i)
				r.Observe(t.Context(), RunStarting{Head: at(i, id)})
				r.Observe(t.Context(), PanicCaught{Head: at(i, id)})
				r.Counters().Query(true)
				if s := r.Snapshot(); s.Totals.QueriesFailed > s.Totals.Queries || len(s.History) > defaultHistory {
					t.Errorf("%+v", s)
				}
			}
		})
	}
	wg.Wait()
	s := r.Snapshot()
	if s.Totals.Runs != 4*n || s.Totals.Panics != 4*n || s.Totals.Queries != 4*n || len(s.History) != defaultHistory {
		t.Errorf("%+v", s.Totals)
	}
}

func countAll(c *Counters) {
	c.Query(true)
	c.Distributed(1)
	c.In(100)
	c.Out(1, 100)
	c.Dropped(1, 100)
	c.Config()
}

func TestAllocations(t *testing.T) {
	r := newRecorder(t)
	for what, c := range map[string]struct {
		do  func()
		max float64
	}{
		"counters":          {func() { countAll(r.Counters()) }, 0},
		"snapshot when new": {func() { _ = r.Snapshot() }, 0},
	} {
		if got := testing.AllocsPerRun(100, c.do); got > c.max {
			t.Errorf("%s: %v allocations, want at most %v", what, got, c.max)
		}
	}
	observe(t, r, RunStarting{Head: at(1, "r1")}, RunEnded{Head: at(2, "r1")}, RunStarting{Head: at(3, "r2")})
	var sink Snapshot
	if got := testing.AllocsPerRun(100, func() { sink = r.Snapshot() }); got > 2 {
		t.Errorf("snapshot with run and history: %v allocations, want at most 2", got)
	}
	if len(sink.History) != 1 || sink.Run == nil {
		t.Errorf("%+v", sink)
	}
}

func BenchmarkCounters(b *testing.B) {
	var c Counters
	b.ReportAllocs()
	for b.Loop() {
		countAll(&c)
	}
}

func BenchmarkSnapshot(b *testing.B) {
	r, err := NewRecorder("a")
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		_ = r.Snapshot()
	}
}
