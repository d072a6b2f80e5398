package tlstrial

import (
	"context"
	"fmt"
	"sync"
	"time"

	// A host has no need of this package: it is here to compare what was written with
	// what arrived.
	"github.com/osqvisor/osqvisor/internal/soak"
)

// book is what is known from the agents' messages. It outlives every agent. It is
// safe for concurrent use.
type book struct {
	mu      sync.Mutex
	pages   map[string]*page
	highest uint64        // number handed out
	changed chan struct{} // closed at each message
}

// page is what is known of one instance.
type page struct {
	ready int // how often an osqueryd was
	pid   int // of the newest

	// What was handed out last, and to which run of osqueryd. osqueryd logs the rows
	// of a query, and waits for each answer of the logger, before it runs the next
	// one: when the same run calls again, all of these were acknowledged.
	run         string
	first, last uint64

	acked   []uint64
	drained bool // after a pause: everything that was handed out is acknowledged

	batches     []soak.Batch // as the agent reports
	results     int
	reenrolment int
}

// newBook begins its numbers at the present millisecond: they are made more slowly
// than milliseconds pass, so those that an earlier use of the same -root has left
// behind are lower.
func newBook(now time.Time) *book {
	b := &book{pages: map[string]*page{}, changed: make(chan struct{}), highest: uint64(max(0, now.UnixMilli()))}
	for _, id := range Names() {
		b.pages[id] = &page{}
	}
	return b
}

// note adds a message.
func (b *book) note(m Message) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p, ok := b.pages[m.Instance]
	if !ok {
		return
	}
	switch m.Kind {
	case KindReady:
		p.ready, p.pid = p.ready+1, m.PID
	case KindTicks:
		p.ticks(m)
		b.highest = max(b.highest, m.Last)
	case KindBatch:
		p.batches = append(p.batches, soak.Batch{ID: m.Batch, Lines: m.Lines})
	case KindResults:
		p.results += m.Count
	case KindEnrolled:
		if m.Again {
			p.reenrolment++
		}
	}
	close(b.changed)
	b.changed = make(chan struct{})
}

func (p *page) ticks(m Message) {
	again := m.First == p.first
	if m.Run == p.run && !p.drained {
		for n := p.first; n <= p.last; n++ {
			p.acked = append(p.acked, n)
		}
		p.drained = again
	}
	p.run, p.first, p.last = m.Run, m.First, m.Last
}

// next returns the first number that was not handed out yet.
func (b *book) next() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.highest + 1
}

// page returns a copy.
func (b *book) page(id string) page {
	b.mu.Lock()
	defer b.mu.Unlock()
	return *b.pages[id]
}

// wait waits until done, which must be quick, is true of all instances, but not for an
// agent that is gone.
func (b *book) wait(ctx context.Context, gone <-chan struct{}, what string, done func(id string, p page) bool) error {
	for {
		b.mu.Lock()
		changed, missing := b.changed, ""
		for id, p := range b.pages {
			if !done(id, *p) {
				missing = id
			}
		}
		b.mu.Unlock()
		if missing == "" {
			return nil
		}
		select {
		case <-changed:
		case <-gone:
			return fmt.Errorf("%s: %s: %w", missing, what, ErrAgentGone)
		case <-ctx.Done():
			return fmt.Errorf("%s: %s: %w", missing, what, context.Cause(ctx))
		}
	}
}

// judge compares the book with what arrived.
func (b *book) judge(arrived func(id string) []soak.Batch) soak.Verdict {
	var total soak.Verdict
	for _, id := range Names() {
		total = total.Add(soak.Judge(b.page(id).acked, arrived(id)))
	}
	return total
}
