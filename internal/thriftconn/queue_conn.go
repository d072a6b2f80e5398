package thriftconn

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// lease is a connection for one query.
type lease struct {
	conn  *Conn
	epoch uint64
	used  bool // it served before, so that it may have died unnoticed
}

// step is what the holder of the turn does next to get a connection.
type step struct {
	lease lease
	wait  time.Duration // look again after this long, or when woken
	dial  func() (*Conn, error)
	err   error
}

// connect returns a connection for the holder of the turn. It waits for osqueryd and,
// a bounded while, for the answers to abandoned queries.
func (q *QueryQueue) connect(ctx context.Context) (lease, error) {
	start := time.Now()
	var last error
	for {
		if err := ctx.Err(); err != nil {
			return lease{}, err
		}
		s := q.nextStep(ctx, last)
		if s.err != nil || s.lease.conn != nil {
			return s.lease, s.err
		}
		if s.dial != nil {
			var conn *Conn
			if conn, last = s.dial(); last == nil {
				if l, ok := q.adopt(conn, s.lease.epoch); ok {
					return l, nil
				}
				continue
			}
			s.wait = q.dialFailed(s.lease.epoch, time.Since(start))
		}
		q.await(ctx, s.wait)
	}
}

// nextStep decides under the lock. last is what the last try to dial met.
func (q *QueryQueue) nextStep(ctx context.Context, last error) step {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := q.refusal(); err != nil {
		return step{err: err}
	}
	if !q.downSince.IsZero() && (q.path == "" || last != nil) {
		left := q.opt.patience - time.Since(q.downSince)
		if left <= 0 {
			return step{err: unavailable(last)}
		}
		if q.path == "" {
			return step{wait: left}
		}
	}
	if wait := q.drainWait(); wait > 0 {
		return step{wait: wait}
	}
	if c := q.idle; c != nil {
		q.idle, q.active = nil, c
		return step{lease: lease{conn: c, epoch: q.epoch, used: true}}
	}
	return step{lease: lease{epoch: q.epoch}, dial: q.dialling(ctx, q.path)}
}

func unavailable(last error) error {
	if last == nil {
		return fmt.Errorf("%w: no osqueryd was announced in time", ErrUnavailable)
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, last)
}

// dialling returns a function that dials until the next change; q.mu is held.
func (q *QueryQueue) dialling(ctx context.Context, path string) func() (*Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	q.abort = cancel
	return func() (*Conn, error) {
		defer cancel()
		return q.dial(ctx, path)
	}
}

// adopt makes a new connection the one in use, unless osqueryd was replaced
// meanwhile.
func (q *QueryQueue) adopt(c *Conn, epoch uint64) (lease, bool) {
	q.mu.Lock()
	q.abort = nil
	current := epoch == q.epoch
	if current {
		q.active, q.downSince = c, time.Time{}
	}
	q.mu.Unlock()
	if !current {
		_ = c.Close()
	}
	return lease{conn: c, epoch: epoch}, current
}

// dialFailed notes that osqueryd cannot be reached and returns the time to wait
// before the next try.
func (q *QueryQueue) dialFailed(epoch uint64, tried time.Duration) time.Duration {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.abort = nil
	if epoch != q.epoch {
		return 0
	}
	if q.downSince.IsZero() {
		q.downSince = time.Now()
	}
	return dialWait(tried)
}

// await waits until it is woken, ctx ends or the time is over.
func (q *QueryQueue) await(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-q.changed:
	case <-timer.C:
	case <-ctx.Done():
	}
}

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

// isLoss reports whether an exchange ended because the connection did.
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
// many it returns the connection of the oldest, for the caller to close.
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
