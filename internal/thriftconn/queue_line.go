package thriftconn

import "context"

// waiter is a query that waits for its turn.
type waiter struct {
	ready      chan struct{} // closed when the turn is its own, or err is set
	err        error
	queued     bool
	prev, next *waiter
}

// waitLine is a list of waiters in the order of their arrival. The zero value
// is empty. Its owner guards it.
type waitLine struct {
	head, tail *waiter
	n          int
}

func (l *waitLine) join() *waiter {
	w := &waiter{ready: make(chan struct{}), queued: true, prev: l.tail}
	if l.tail == nil {
		l.head = w
	} else {
		l.tail.next = w
	}
	l.tail = w
	l.n++
	return w
}

// leave takes a waiter out; false when it was out already.
func (l *waitLine) leave(w *waiter) bool {
	if !w.queued {
		return false
	}
	if w.prev == nil {
		l.head = w.next
	} else {
		w.prev.next = w.next
	}
	if w.next == nil {
		l.tail = w.prev
	} else {
		w.next.prev = w.prev
	}
	w.queued, w.prev, w.next = false, nil, nil
	l.n--
	return true
}

// dismiss sends everybody away.
func (l *waitLine) dismiss(err error) {
	for w := l.head; w != nil; w = l.head {
		l.leave(w)
		w.err = err
		close(w.ready)
	}
}

// takeTurn waits for the turn. Without an error the caller must pass it on.
func (q *QueryQueue) takeTurn(ctx context.Context) error {
	q.mu.Lock()
	err := q.refusal()
	if err == nil {
		err = ctx.Err()
	}
	if err != nil || !q.taken {
		q.taken = q.taken || err == nil
		q.mu.Unlock()
		return err
	}
	w := q.line.join()
	q.mu.Unlock()
	select {
	case <-w.ready:
		return w.err
	case <-ctx.Done():
		return q.giveUp(ctx, w)
	}
}

// giveUp takes a waiter out of the line; a turn that came meanwhile goes on to
// the next.
func (q *QueryQueue) giveUp(ctx context.Context, w *waiter) error {
	q.mu.Lock()
	left := q.line.leave(w)
	q.mu.Unlock()
	if !left && w.err == nil {
		q.passTurn()
	}
	return ctx.Err()
}

// passTurn gives the turn to whoever came first.
func (q *QueryQueue) passTurn() {
	q.mu.Lock()
	defer q.mu.Unlock()
	w := q.line.head
	if w == nil {
		q.taken = false
		return
	}
	q.line.leave(w)
	close(w.ready)
}

// refusal tells why no query can run; q.mu is held.
func (q *QueryQueue) refusal() error {
	if q.closed {
		return ErrClosed
	}
	return q.failure
}
