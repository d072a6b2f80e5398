package gameday

import (
	"context"
	"fmt"
	goruntime "runtime"
	"slices"
	"sync"
	"time"

	"github.com/osqvisor/osqvisor/instance/osquerydtest"
)

const (
	linePace     = 40 * time.Millisecond
	linePatience = 3 * time.Second
)

// lines has each instance's osqueryd log numbered lines, and remembers which of them
// were acknowledged. Each instance has one goroutine.
type lines struct {
	fake *osquerydtest.Fake
	mark func(id string) string
	stop context.CancelFunc
	wait sync.WaitGroup
	per  map[string]*numbers
}

// numbers are the lines of one instance. Who has taken the turn owns the rest.
type numbers struct {
	turn  chan struct{}
	next  int
	acked []int
}

func newNumbers() *numbers { return &numbers{turn: make(chan struct{}, 1)} }

func (n *numbers) take() { n.turn <- struct{}{} } // nobody has it for longer than linePatience

func (n *numbers) free() { <-n.turn }

// startLines begins to log on every instance.
func startLines(fake *osquerydtest.Fake, ids []string, mark func(string) string) *lines {
	ctx, cancel := context.WithCancel(context.Background())
	l := &lines{fake: fake, mark: mark, stop: cancel, per: map[string]*numbers{}}
	for _, id := range ids {
		l.per[id] = newNumbers()
	}
	for _, id := range ids {
		l.wait.Go(func() {
			for ctx.Err() == nil {
				_ = l.log(ctx, id, 1) // a line that was not acknowledged is nobody's loss
				pause(ctx, linePace)
			}
		})
	}
	return l
}

// log has the instance's worker log n lines, and waits until it says that they are stored.
func (l *lines) log(ctx context.Context, id string, n int) error {
	ns := l.per[id]
	ns.take()
	defer ns.free()
	ctx, cancel := context.WithTimeout(ctx, linePatience)
	defer cancel()
	p, err := l.fake.WaitWorker(ctx, l.mark(id))
	if err != nil {
		return err
	}
	var texts []string
	first := ns.next
	for range n {
		texts = append(texts, fmt.Sprint(linePrefix, ns.next))
		ns.next++
	}
	if err := p.Emit(ctx, texts...); err != nil {
		return err
	}
	for i := range n {
		ns.acked = append(ns.acked, first+i)
	}
	return nil
}

// hush stops an instance's lines until the function it returns is called.
func (l *lines) hush(id string) (resume func()) {
	if l == nil {
		return func() {}
	}
	ns := l.per[id]
	ns.take()
	return sync.OnceFunc(ns.free)
}

func (l *lines) close() {
	l.stop()
	l.wait.Wait()
}

// lost counts acknowledged lines that did not arrive, or not in their order.
func lost(acked, arrived []int) (missing, disordered int) {
	there := make(map[int]bool, len(arrived))
	for _, n := range arrived {
		there[n] = true
	}
	wanted := make(map[int]bool, len(acked))
	for _, n := range acked {
		wanted[n] = true
		if !there[n] {
			missing++
		}
	}
	last := -1
	for _, n := range arrived {
		if !wanted[n] {
			continue // it was given up, so that it may come at any time
		}
		if n <= last {
			disordered++
		}
		last = max(last, n)
	}
	return missing, disordered
}

// arrivedAll reports whether nothing is missing.
func (l *lines) arrivedAll(s *sink, announced func(id string) int) bool {
	for id, ns := range l.per {
		ns.take()
		acked := slices.Clone(ns.acked)
		ns.free()
		if missing, _ := lost(acked, s.arrived(id)); missing > announced(id) {
			return false
		}
	}
	return true
}

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
