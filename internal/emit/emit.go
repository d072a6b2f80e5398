// Package emit delivers the events of one instance to its observers: one after
// the other, in order, on a goroutine of its own, and with no lock held while an
// observer runs. Who emits never waits for an observer.
package emit

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/osqvisor/osqvisor/stats"
)

// DefaultCapacity is how many events wait for a slow observer before the oldest
// of them are dropped.
const DefaultCapacity = 4096

// Emitter orders the events of one instance. It has a goroutine only while there
// is something to deliver. All methods are safe for concurrent use and may be
// called from an observer. Make one with [New].
type Emitter struct {
	first    stats.Observer // may be nil
	parent   context.Context
	capacity int

	mu         sync.Mutex
	observers  []stats.Observer // replaced, never changed
	base       context.Context  // ends when the observers should return
	cancel     context.CancelFunc
	queue      []item
	pushed     uint64 // number of the newest event that was queued
	current    uint64 // number of the event that is being delivered; 0 when none is
	round      uint64 // counts the calls of interrupt: what was taken before is stale
	delivering bool
	stuck      bool // the observer that runs was told to return, and does not
	closed     bool // nothing more is queued
	abandoned  bool // nothing more is delivered
	waiters    []waiter
	dropped    uint64
	untold     uint64 // of those, for want of room, and Settle has not said so
	panics     uint64
}

// item is an event on its way.
type item struct {
	number uint64
	values context.Context // for its values alone
	event  stats.Event
	report bool // it tells of a panic of the observer at index skip,
	skip   int  // which is not told
}

// waiter waits for every event up to a number.
type waiter struct {
	number uint64
	over   chan struct{}
}

// New makes an Emitter. The first observer is called by Emit itself, by whoever
// emits, at the same time as others do: it is the instance's own record, which must
// be exact at every moment. The others are told in order, behind the emitters' backs.
// Nil ones are skipped. The context that observers are handed ends with ctx, or
// with Close, or when Settle loses patience; its deadline is not passed on. A
// capacity below 1 is DefaultCapacity. Close must be called, or ctx keeps a
// reference to the Emitter.
func New(ctx context.Context, capacity int, first stats.Observer, others ...stats.Observer) *Emitter {
	if capacity < 1 {
		capacity = DefaultCapacity
	}
	e := &Emitter{capacity: capacity, first: first, parent: ctx}
	e.base, e.cancel = context.WithCancel(ctx)
	e.SetObservers(others...)
	return e
}

// SetObservers replaces the observers, but for the first. Events that are queued go to the
// new ones; the one that is under way goes to those it began with. Nil ones are skipped.
func (e *Emitter) SetObservers(others ...stats.Observer) {
	list := slices.DeleteFunc(slices.Clone(others), func(o stats.Observer) bool { return o == nil })
	e.mu.Lock()
	defer e.mu.Unlock()
	e.observers = list
}

func (e *Emitter) list() []stats.Observer {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.observers
}

// Emit hands an event to the first observer, and queues it for the others, for whom
// it does not wait. When the queue is full, the oldest event in it is dropped and
// counted, which the next Settle tells; after Close, the event itself is. Of ctx,
// observers see the values only. A nil event is ignored.
func (e *Emitter) Emit(ctx context.Context, ev stats.Event) {
	if ev == nil || !e.accepts() {
		return
	}
	ctx = context.WithoutCancel(ctx)
	e.record(ctx, ev)
	if e.enqueue(item{values: ctx, event: ev}) {
		go e.deliverAll() // Settle and Close join it
	}
}

// Close ends delivery: what is queued is still delivered, what comes later is
// dropped. Once it has returned nil, no observer runs or will be called.
//
// When ctx ends first, the observers' context is cancelled, what is queued is
// dropped, and the error says that one call of an observer is still running;
// none follows it. Close may then be called again, to wait for that one.
//
// When it is called from within an observer, with the context that the observer
// was handed, it cannot wait for its own caller: it drops what is queued and
// returns nil, and the only call left is the caller's own. An observer that
// calls it with another context waits until that one ends. An observer that Settle
// has given up is not waited for again: that is an error at once.
//
// It may be called any number of times.
func (e *Emitter) Close(ctx context.Context) error {
	wait, stuck := e.shut(insideOf(ctx, e))
	defer e.endContext()
	if stuck {
		return errStuck
	}
	select {
	case <-wait:
		return nil
	case <-ctx.Done():
	}
	e.abandon()
	select {
	case <-wait: // it ended in the same moment
		return nil
	default:
	}
	return fmt.Errorf("an observer is still running; make it return when its context ends: %w", context.Cause(ctx))
}

// Dropped counts the events that were not delivered to every observer: for want
// of room or of patience, or because they came after Close.
func (e *Emitter) Dropped() uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.dropped
}

// Panics counts the panics of observers, those included that could not be
// reported because the report itself made an observer panic.
func (e *Emitter) Panics() uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.panics
}
