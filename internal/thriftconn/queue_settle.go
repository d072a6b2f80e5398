package thriftconn

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// drain is an abandoned query whose answer is awaited.
type drain struct {
	conn  *Conn
	epoch uint64
	since time.Time
}

// settle decides what becomes of a connection after an exchange, and of the
// query: whether to run it again, or what its caller gets.
func (q *QueryQueue) settle(ctx context.Context, l lease, o outcome) (again bool, err error) {
	q.mu.Lock()
	q.active = nil
	gaveUp := o.err != nil && ctx.Err() != nil && errors.Is(o.err, ctx.Err())
	lost := o.phase != phaseDone && !gaveUp && isLoss(o.err)
	current := l.epoch == q.epoch
	keep, surplus := q.place(l, o, gaveUp)
	again = lost && o.phase <= phaseSending && (l.used || !current) && !q.closed
	if !again {
		q.count(o, gaveUp)
	}
	err = q.verdict(o, lost, again, gaveUp)
	q.mu.Unlock()
	if !keep {
		_ = l.conn.Close()
	}
	if surplus != nil {
		_ = surplus.Close()
	}
	return again, err
}

// place keeps a connection for the next query, or hands it to a drain, which can
// leave another one over; q.mu is held.
func (q *QueryQueue) place(l lease, o outcome, gaveUp bool) (keep bool, surplus *Conn) {
	current := l.epoch == q.epoch
	switch {
	case o.phase.clean():
		keep = current && q.idle == nil && !l.conn.Broken()
		if keep {
			q.idle = l.conn
		}
	case gaveUp && o.phase == phaseSent && current:
		return true, q.startDrain(l)
	}
	return keep, nil
}

// isLoss tells whether an exchange ended because the connection did.
func isLoss(err error) bool {
	var transport *TransportError
	return errors.As(err, &transport) || errors.Is(err, ErrClosed) || errors.Is(err, ErrBroken)
}

// count notes how a query ended; q.mu is held.
func (q *QueryQueue) count(o outcome, gaveUp bool) {
	switch {
	case o.phase == phaseIdle:
		q.stats.Withdrawn++
	case gaveUp:
		q.stats.Abandoned++
	default:
		if o.phase == phaseDone {
			q.stats.Run++
		}
		if o.err != nil {
			q.stats.Failed++
		}
	}
}

// verdict is what the caller of a query gets; q.mu is held.
func (q *QueryQueue) verdict(o outcome, lost, again, gaveUp bool) error {
	switch {
	case again:
		return nil
	case lost && q.closed:
		return ErrClosed
	case lost && q.failure != nil:
		return fmt.Errorf("%w: %w", ErrConnectionLost, q.failure)
	case lost:
		return fmt.Errorf("%w: %w", ErrConnectionLost, o.err)
	case gaveUp && o.phase <= phaseSending:
		return fmt.Errorf("%w: %w", ErrWaiting, o.err)
	case gaveUp:
		return fmt.Errorf("%w: %w", ErrInFlight, o.err)
	}
	return ownError(o.err)
}

// startDrain begins to wait for a late answer; q.mu is held. When there are too
// many it gives the connection of the oldest, for the caller to close.
func (q *QueryQueue) startDrain(l lease) (surplus *Conn) {
	if len(q.drains) >= q.opt.drains {
		surplus = q.drains[0].conn
		q.drains = slices.Delete(q.drains, 0, 1)
	}
	d := &drain{conn: l.conn, epoch: l.epoch, since: time.Now()}
	q.drains = append(q.drains, d)
	q.drainWG.Add(1) // never after closed was set: this epoch is current
	go q.drain(d)
	return surplus
}

// drain waits for one late answer. Its connection may serve again after that.
func (q *QueryQueue) drain(d *drain) {
	defer q.drainWG.Done()
	ok := d.conn.discardAnswer(q.opt.drain)
	q.mu.Lock()
	if i := slices.Index(q.drains, d); i >= 0 {
		q.drains = slices.Delete(q.drains, i, i+1)
	}
	keep := ok && d.epoch == q.epoch && q.idle == nil && q.active == nil && !d.conn.Broken()
	if keep {
		q.idle = d.conn
	}
	q.mu.Unlock()
	if !keep {
		_ = d.conn.Close()
	}
	q.wake()
}

// drainWait is how much longer to wait for late answers; q.mu is held.
func (q *QueryQueue) drainWait() time.Duration {
	var most time.Duration
	for _, d := range q.drains {
		most = max(most, q.opt.grace-time.Since(d.since))
	}
	return most
}
