package thriftconn

import (
	"context"
	"fmt"
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

// connect gives the holder of the turn a connection. It waits for osqueryd and,
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

// dialling gives a function that dials until the next change; q.mu is held.
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

// dialFailed notes that osqueryd cannot be reached and gives the time to wait
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
