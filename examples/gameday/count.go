package main

import (
	"context"
	"fmt"
	goruntime "runtime"
	"slices"
	"time"
)

// goroutines compares how many there are at two moments.
type goroutines int

func countGoroutines() goroutines { return goroutines(goruntime.NumGoroutine()) }

// leaked counts those that are more, after they had a moment to end.
func (g goroutines) leaked() int {
	end := time.Now().Add(5 * time.Second)
	for {
		more := goruntime.NumGoroutine() - int(g)
		if more <= 0 || time.Now().After(end) {
			return max(more, 0)
		}
		pause(context.Background(), 10*time.Millisecond)
	}
}

// awaitLines waits until everything that was acknowledged arrived.
func (w *world) awaitLines() {
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); {
		if w.lines.arrivedAll(w.sink, w.journal.dropped) {
			return
		}
		pause(context.Background(), 20*time.Millisecond)
	}
}

// count compares what was acknowledged with what arrived. A real osqueryd does not tell
// what it was answered, so there the instances' own counters have to do.
func (w *world) count(e *end) {
	for _, id := range w.ids {
		missing, disordered := w.countLines(id, e)
		if announced := w.journal.dropped(id); announced > 0 {
			missing = max(0, missing-announced)
		}
		if missing+disordered > 0 {
			e.missing += missing + disordered
			e.lost = append(e.lost, fmt.Sprintf("%s: %d lines missing, %d out of order", id, missing, disordered))
		}
	}
}

func (w *world) countLines(id string, e *end) (missing, disordered int) {
	if w.lines != nil {
		acked := slices.Clone(w.lines.per[id].acked)
		e.lines += len(acked)
		return lost(acked, w.sink.arrived(id))
	}
	s, err := w.runner.Snapshot(id)
	if err != nil {
		return 0, 0
	}
	e.lines += int(s.Totals.LinesIn)
	return max(0, int(s.Totals.LinesIn)-int(s.Totals.LinesOut)), 0
}
