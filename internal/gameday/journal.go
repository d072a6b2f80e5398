package gameday

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"

	"github.com/osqvisor/osqvisor/extension"
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
	if _, ok := e.(stats.LogsDelivered); ok {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.events = append(j.events, e)
	close(j.changed)
	j.changed = make(chan struct{})
}

// trip is another observer: one that panics on command.
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

// wait returns the first event since from that is wanted.
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

// linePrefix begins a line that is counted; its number follows.
const linePrefix = "gameday "

// sink is the transport of all instances: it counts the numbered lines that arrive,
// and hangs on command. It is safe for concurrent use.
type sink struct {
	config map[string]string

	mu      sync.Mutex
	hung    map[string]chan struct{} // closed to let the calls go on
	batches map[string]bool
	numbers map[string][]int
	total   map[string]int // of all lines
}

func newSink(config string) *sink {
	return &sink{
		config: map[string]string{"gameday": config}, hung: map[string]chan struct{}{},
		batches: map[string]bool{}, numbers: map[string][]int{}, total: map[string]int{},
	}
}

// hang makes every call of an instance hang, whatever its context says, until release.
func (s *sink) hang(id string) (release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	gate := make(chan struct{})
	s.hung[id] = gate
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.hung, id)
		close(gate)
	})
}

func (s *sink) hold(id string) {
	s.mu.Lock()
	gate := s.hung[id]
	s.mu.Unlock()
	if gate != nil {
		<-gate
	}
}

// Config is the same for all.
func (s *sink) Config(_ context.Context, n extension.Node) (map[string]string, error) {
	s.hold(n.Instance)
	return s.config, nil
}

// PublishLogs counts, and skips batches that came before.
func (s *sink) PublishLogs(ctx context.Context, n extension.Node, b extension.Batch) error {
	s.hold(n.Instance)
	if err := ctx.Err(); err != nil {
		return err // it was given up meanwhile and comes again
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.batches[b.ID] {
		return nil
	}
	s.batches[b.ID] = true
	s.total[n.Instance] += len(b.Lines)
	for _, line := range b.Lines {
		text, ok := bytes.CutPrefix(line, []byte(linePrefix))
		if number, err := strconv.Atoi(string(text)); ok && err == nil {
			s.numbers[n.Instance] = append(s.numbers[n.Instance], number)
		}
	}
	return nil
}

// Queries has none.
func (s *sink) Queries(_ context.Context, n extension.Node) (extension.QuerySet, error) {
	s.hold(n.Instance)
	return extension.QuerySet{}, nil
}

// WriteResults takes results and forgets them.
func (s *sink) WriteResults(_ context.Context, n extension.Node, _ []extension.Result) error {
	s.hold(n.Instance)
	return nil
}

// arrived returns the numbers that arrived, in the order of arrival.
func (s *sink) arrived(id string) []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]int(nil), s.numbers[id]...)
}
