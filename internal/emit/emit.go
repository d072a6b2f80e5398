// Package emit delivers the events of one instance to its observers: one after
// the other, in order, on a goroutine of its own, and with no lock held while an
// observer runs. Who emits never waits for an observer.
package emit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/osqvisor/osqvisor/stats"
)

// capacity is how many events wait for a slow observer before the oldest of them
// are dropped.
const capacity = 4096

// Emitter orders the events of one instance. It has a goroutine only while there
// is something to deliver. All methods are safe for concurrent use and may be
// called from an observer. Make one with [New].
type Emitter struct {
	first    stats.Observer // may be nil
	capacity int

	mu         sync.Mutex
	observers  []stats.Observer // replaced, never changed
	base       context.Context  // ends when the observers should return
	cancel     context.CancelFunc
	queue      []item
	pushed     uint64 // number of the newest event that was queued
	current    uint64 // number of the event that is being delivered; 0 when none is
	round      uint64 // counts the calls of interrupt: what was dequeued before is stale
	delivering bool
	stuck      bool // the observer that runs does not return although its context ended
	closed     bool // nothing more is queued
	abandoned  bool // nothing more is delivered
	waiters    []waiter
	dropped    uint64
	overflowed uint64 // of those, for want of room, and Flush has not reported them
	panics     uint64 // of observers, reported or not
}

// item is an event on its way.
type item struct {
	number uint64
	values context.Context // for its values alone
	event  stats.Event
	report bool // it reports a panic of the observer at index skip,
	skip   int  // which does not receive it
}

// waiter waits for every event up to a number.
type waiter struct {
	number uint64
	over   chan struct{}
}

// New returns an Emitter. The first observer, which may be nil, is called by Emit itself,
// possibly by several callers at once: it is the instance's own record, which must be exact
// at every moment. The others are called in order on the Emitter's goroutine. Nil ones are
// skipped. The context of their calls ends with Close, or when Flush loses patience.
func New(first stats.Observer, others ...stats.Observer) *Emitter {
	e := &Emitter{capacity: capacity, first: first}
	e.base, e.cancel = context.WithCancel(context.Background())
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

// Emit calls the first observer, and queues the event for the others, for whom it does not
// wait. When the queue is full, its oldest event is dropped, which the next Flush reports;
// after Close, the event itself is. Observers see the values of ctx, nothing else of it. A
// nil event is ignored.
func (e *Emitter) Emit(ctx context.Context, ev stats.Event) {
	if ev == nil || !e.accepts() {
		return
	}
	ctx = context.WithoutCancel(ctx)
	e.record(ctx, ev)
	if e.enqueue(item{values: ctx, event: ev}) {
		go e.deliverAll() // Flush and Close join it
	}
}

// Close ends delivery: what is queued is still delivered, what comes later is dropped. Once
// it has returned nil, no observer runs or will be called. It may be called several times.
//
// When ctx ends first, the observers' context is cancelled, what is queued is dropped, and
// the error reports that one call of an observer is still running; no other follows. Close
// may then be called again, to wait for that one.
//
// Called by an observer with the context of its call, it cannot wait for its own caller: it
// drops what is queued and returns nil, and the only call left is the caller's own. With
// another context an observer waits until that one ends. An observer that Flush has given up
// is not waited for again: that is an error at once.
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

// What Flush fails with.
var (
	errSlow  = errors.New("an observer did not return in time; its context was ended, and what waited behind it was dropped")
	errStuck = errors.New("an observer does not return although its context ended")
	errFull  = errors.New("an observer is slower than its events come; the oldest were dropped for want of room")
)

// Flush waits until everything that was emitted before it is delivered, for at most the time
// of patience. Then the context of the observer that runs is cancelled, what is queued is
// dropped, and the observer has as long again to return. Once Flush has returned nil, or an
// error other than that an observer does not return, no observer runs with an event that was
// emitted before. An observer that does not return is waited for once; until it does, Flush
// fails at once. It also reports, once, the events that were dropped for want of room. Called
// by an observer with the context of its call, it does nothing.
func (e *Emitter) Flush(ctx context.Context, patience time.Duration) error {
	if insideOf(ctx, e) {
		return nil
	}
	return errors.Join(e.flush(patience), e.overflow())
}

func (e *Emitter) flush(patience time.Duration) error {
	over, stuck := e.awaitNow()
	if stuck {
		return fmt.Errorf("%w; %d events were dropped", errStuck, e.interrupt())
	}
	if within(over, patience) {
		return nil
	}
	dropped := e.interrupt()
	if within(over, patience) {
		return fmt.Errorf("%w: %d events", errSlow, dropped)
	}
	e.giveUpOn()
	return fmt.Errorf("%w; %d events were dropped", errStuck, dropped)
}

// overflow reports what was dropped for want of room since it last did.
func (e *Emitter) overflow() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := e.overflowed
	e.overflowed = 0
	if n == 0 {
		return nil
	}
	return fmt.Errorf("%w: %d events", errFull, n)
}

// awaitNow returns what to wait for, unless an observer is stuck.
func (e *Emitter) awaitNow() (over <-chan struct{}, stuck bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.stuck {
		return nil, true
	}
	return e.await(e.pushed), false
}

// interrupt ends the observers' context and makes a new one for what comes later.
func (e *Emitter) interrupt() (dropped int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.round++
	e.cancel()
	if !e.closed {
		e.base, e.cancel = context.WithCancel(context.Background())
	}
	return e.drain()
}

// giveUpOn records that the observer that runs is not to be waited for again.
func (e *Emitter) giveUpOn() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.stuck = e.current != 0
}

func within(over <-chan struct{}, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-over:
		return true
	case <-timer.C:
		return false
	}
}

// accepts reports whether the Emitter is open, and counts an event that comes too late.
func (e *Emitter) accepts() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		e.dropped++
	}
	return !e.closed
}

// enqueue reports whether the caller has to start the delivery.
func (e *Emitter) enqueue(it item) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case len(e.observers) == 0:
		return false
	case e.closed:
		e.dropped++
		return false
	}
	e.push(it)
	if e.delivering {
		return false
	}
	e.delivering = true
	return true
}

// push is called under the lock.
func (e *Emitter) push(it item) {
	if e.makeRoom() {
		e.progress()
	}
	e.pushed++
	it.number = e.pushed
	e.queue = append(e.queue, it)
}

// pushNext is called under the lock. It puts what belongs to the event that is being
// delivered right behind it, so that who waits for the one waits for the other.
func (e *Emitter) pushNext(it item) {
	e.makeRoom()
	e.queue = append([]item{it}, e.queue...)
}

// makeRoom is called under the lock. It drops the oldest event of a full queue.
func (e *Emitter) makeRoom() (dropped bool) {
	if len(e.queue) < e.capacity {
		return false
	}
	e.pop()
	e.dropped++
	e.overflowed++
	return true
}

// pop is called under the lock, with something in the queue.
func (e *Emitter) pop() item {
	it := e.queue[0]
	e.queue[0] = item{}
	e.queue = e.queue[1:]
	return it
}

// next returns the next event, with the context for its observers and its round, or
// ends the delivery: in one step, so that no event can be queued between the two
// and stay there.
func (e *Emitter) next() (it item, base context.Context, round uint64, ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.current, e.stuck = 0, false
	if len(e.queue) == 0 {
		e.rest()
		return item{}, nil, 0, false
	}
	it = e.pop()
	e.current = it.number
	e.progress()
	return it, e.base, e.round, true
}

// rest is called under the lock when delivering ends.
func (e *Emitter) rest() {
	e.queue = nil // a burst does not keep its memory
	e.delivering = false
	e.progress()
}

// progress is called under the lock, after something left the queue or was
// delivered. It wakes those who waited for that.
func (e *Emitter) progress() {
	left := e.waiters[:0]
	for _, w := range e.waiters {
		if e.busyUpTo(w.number) {
			left = append(left, w)
			continue
		}
		close(w.over)
	}
	clear(e.waiters[len(left):])
	e.waiters = left
}

// busyUpTo is called under the lock. It reports whether an event up to this number is
// queued or being delivered.
func (e *Emitter) busyUpTo(number uint64) bool {
	return e.current != 0 && e.current <= number || len(e.queue) > 0 && e.queue[0].number <= number
}

// await is called under the lock. It returns what is closed when every event up to
// number is out of the way.
func (e *Emitter) await(number uint64) <-chan struct{} {
	over := make(chan struct{})
	if !e.busyUpTo(number) {
		close(over)
		return over
	}
	e.waiters = append(e.waiters, waiter{number, over})
	return over
}

// everything is a number that no event has.
const everything = ^uint64(0)

// shut ends the acceptance of events. It returns what to wait for, unless an observer is stuck.
func (e *Emitter) shut(inside bool) (wait <-chan struct{}, stuck bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = true
	switch {
	case inside:
		e.discard()
		return e.await(0), false
	case e.stuck:
		e.discard()
		return nil, true
	}
	return e.await(everything), false
}

// abandon drops what is queued, and what the observer that runs would leave to the others.
func (e *Emitter) abandon() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.discard()
}

// endContext is called when nothing more is delivered.
func (e *Emitter) endContext() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.cancel()
}

// discard is called under the lock, after closed is set.
func (e *Emitter) discard() {
	e.abandoned = true
	e.drain()
}

// drain is called under the lock.
func (e *Emitter) drain() (dropped int) {
	dropped = len(e.queue)
	e.dropped += uint64(dropped)
	e.queue = nil
	e.progress()
	return dropped
}

// stale reports whether an event of this round is delivered to nobody else.
func (e *Emitter) stale(round uint64) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.abandoned || e.round != round
}
