package emit

import "context"

// accepts says that the Emitter is open, and counts an event that it does not take.
func (e *Emitter) accepts() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		e.dropped++
	}
	return !e.closed
}

// enqueue says that the caller has to start the delivery.
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
	e.untold++
	return true
}

// pop is called under the lock, with something in the queue.
func (e *Emitter) pop() item {
	it := e.queue[0]
	e.queue[0] = item{}
	e.queue = e.queue[1:]
	return it
}

// next gives the next event, with the context for its observers and its round, or
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

// busyUpTo is called under the lock. It says that an event up to this number is
// queued or being delivered.
func (e *Emitter) busyUpTo(number uint64) bool {
	return e.current != 0 && e.current <= number || len(e.queue) > 0 && e.queue[0].number <= number
}

// await is called under the lock. It gives what is closed when every event up to
// now, or the end of all, is out of the way.
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

// shut takes no more events. It gives what to wait for, unless that is known to be in vain.
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

// abandon drops what is queued, and tells the observer that runs to return.
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

// stale says that what was taken in this round is to be delivered to nobody else.
func (e *Emitter) stale(round uint64) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.abandoned || e.round != round
}
