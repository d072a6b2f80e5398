// Package emit delivers the events of one instance to its observers: one after
// the other, in order, and with no lock held while an observer runs.
package emit

import (
	"context"
	"fmt"
	"sync"

	"github.com/osqvisor/osqvisor/stats"
)

// DefaultCapacity is how many events wait for a slow observer before the oldest
// of them are dropped.
const DefaultCapacity = 4096

// Emitter orders the events of one instance. It has no goroutine of its own:
// the first caller of Emit delivers, for itself and for everybody who comes
// while it does. All methods are safe for concurrent use and may be called from
// an observer. Make one with [New].
type Emitter struct {
	observers []stats.Observer
	base      context.Context // ends when the observers should
	cancel    context.CancelFunc
	capacity  int

	mu         sync.Mutex
	queue      []item
	delivering bool
	closed     bool          // nothing more is queued
	abandoned  bool          // nothing more is delivered
	idle       chan struct{} // closed when delivering ends; made by who waits
	dropped    uint64
	panics     uint64
}

// item is an event on its way.
type item struct {
	values context.Context // for its values alone
	event  stats.Event
	report bool // it tells of a panic of the observer at index skip,
	skip   int  // which is not told
}

// New makes an Emitter for these observers; nil ones are skipped. The context
// that observers are handed ends with ctx, or with Close; its deadline is not
// passed on. A capacity below 1 is DefaultCapacity. Close must be called, or ctx
// keeps a reference to the Emitter.
func New(ctx context.Context, capacity int, observers ...stats.Observer) *Emitter {
	if capacity < 1 {
		capacity = DefaultCapacity
	}
	e := &Emitter{capacity: capacity}
	e.base, e.cancel = context.WithCancel(ctx)
	for _, o := range observers {
		if o != nil {
			e.observers = append(e.observers, o)
		}
	}
	return e
}

// Emit hands an event to every observer. When nobody is delivering, it returns
// after this event and all that were queued meanwhile are delivered; otherwise
// it queues the event for whoever is delivering and returns at once, which is
// also what happens when an observer calls it. When the queue is full, the
// oldest event in it is dropped and counted; after Close, the event itself is.
// Of ctx, observers see the values only. A nil event is ignored.
func (e *Emitter) Emit(ctx context.Context, ev stats.Event) {
	if ev == nil || !e.enqueue(item{values: context.WithoutCancel(ctx), event: ev}) {
		return
	}
	e.deliverAll()
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
// calls it with another context waits until that one ends.
//
// It may be called any number of times.
func (e *Emitter) Close(ctx context.Context) error {
	wait := e.shut(insideOf(ctx, e))
	if wait == nil {
		e.cancel()
		return nil
	}
	select {
	case <-wait:
		e.cancel()
		return nil
	case <-ctx.Done():
	}
	e.abandon()
	e.cancel()
	select {
	case <-wait: // it ended in the same moment
		return nil
	default:
	}
	return fmt.Errorf("an observer is still running; make it return when its context ends: %w", context.Cause(ctx))
}

// Dropped counts the events that were not delivered to every observer: for want
// of room, or because they came after Close.
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
