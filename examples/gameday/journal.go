package main

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/osqvisor/osqvisor/stats"
)

// journal keeps every event of every instance, and lets one wait for one. It is safe
// for concurrent use.
type journal struct {
	mu      sync.Mutex
	events  []stats.Event
	changed chan struct{}
	shaky   map[string]bool // instances whose observer panics
}

func newJournal() *journal {
	return &journal{changed: make(chan struct{}), shaky: map[string]bool{}}
}

// Observe takes an event. Deliveries are left out: there are many, and the transport
// counts them.
func (j *journal) Observe(_ context.Context, e stats.Event) {
	if _, ok := e.(stats.LogsShipped); ok {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.events = append(j.events, e)
	close(j.changed)
	j.changed = make(chan struct{})
}

// trip is another observer: one that panics when it is told to.
func (j *journal) trip(_ context.Context, e stats.Event) {
	j.mu.Lock()
	shaky := j.shaky[e.Meta().Instance]
	j.mu.Unlock()
	if shaky {
		panic("gameday: the observer panics at " + e.Kind())
	}
}

func (j *journal) shake(id string, on bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.shaky[id] = on
}

func (j *journal) len() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.events)
}

func (j *journal) since(from int) []stats.Event {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.events[from:])
}

// wait gives the first event since from that is wanted.
func (j *journal) wait(ctx context.Context, from int, want func(stats.Event) bool) (stats.Event, error) {
	for {
		j.mu.Lock()
		next, changed := j.events[from:], j.changed
		from = len(j.events)
		j.mu.Unlock()
		for _, e := range next { // only ever appended to
			if want(e) {
				return e, nil
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("no such event: %w", context.Cause(ctx))
		}
	}
}

// dropped counts the lines of an instance whose loss was announced.
func (j *journal) dropped(id string) int {
	n := 0
	for _, e := range j.since(0) {
		if d, ok := e.(stats.LogsDropped); ok && d.Instance == id {
			n += int(d.Lines)
		}
	}
	return n
}
