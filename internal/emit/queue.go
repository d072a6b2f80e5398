package emit

// enqueue says that the caller has to deliver.
func (e *Emitter) enqueue(it item) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
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
	if len(e.queue) >= e.capacity {
		e.pop()
		e.dropped++
	}
	e.queue = append(e.queue, it)
}

// pop is called under the lock, with something in the queue.
func (e *Emitter) pop() item {
	it := e.queue[0]
	e.queue[0] = item{}
	e.queue = e.queue[1:]
	return it
}

// next gives the next event, or ends the delivery: in one step, so that no
// event can be queued between the two and stay there.
func (e *Emitter) next() (item, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.queue) == 0 {
		e.rest()
		return item{}, false
	}
	return e.pop(), true
}

// rest is called under the lock when delivering ends.
func (e *Emitter) rest() {
	e.queue = nil // a burst does not keep its memory
	e.delivering = false
	if e.idle != nil {
		close(e.idle)
		e.idle = nil
	}
}

// shut takes no more events. It gives what to wait for, or nil when there is
// nothing to wait for.
func (e *Emitter) shut(inside bool) <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = true
	if inside || !e.delivering {
		e.discard()
		return nil
	}
	if e.idle == nil {
		e.idle = make(chan struct{})
	}
	return e.idle
}

func (e *Emitter) abandon() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.discard()
}

// discard is called under the lock, after closed is set.
func (e *Emitter) discard() {
	e.abandoned = true
	e.dropped += uint64(len(e.queue))
	e.queue = nil
}

func (e *Emitter) isAbandoned() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.abandoned
}
