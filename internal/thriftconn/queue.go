package thriftconn

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
)

// DialFunc connects to osqueryd's manager socket at path, one try; Dial does.
// It must return soon after ctx ends.
type DialFunc func(ctx context.Context, path string) (*Conn, error)

// QueueStats is what a QueryQueue holds now.
type QueueStats struct {
	Waiting  int // queries that wait for their turn
	Draining int // abandoned queries whose late answer is awaited
}

// QueryQueue runs queries on one osqueryd, one at a time, first come first
// served. Any number of goroutines may use it; each waits under its own
// context, and ErrWaiting or ErrInFlight report how far its
// query was when that ended. The caller returns at once. If its query was in flight osqueryd
// goes on with it, so the next queries wait for the late answer, which is dropped,
// a bounded while before a second connection is opened.
//
// The queue keeps one connection and, while nothing runs, no goroutine. It
// starts suspended: Reset sets where osqueryd is.
type QueryQueue struct {
	dial    DialFunc
	opt     queueOptions
	turn    *semaphore.Weighted
	changed chan struct{} // wakes the holder of the turn; holds one token
	drainWG sync.WaitGroup

	mu        sync.Mutex
	refused   context.Context // ends when all who wait are to fail
	refuse    context.CancelCauseFunc
	path      string // of the socket; empty while suspended
	failure   error  // why no query can run, set by Fail
	downSince time.Time
	closed    bool
	epoch     uint64             // counts the changes of osqueryd
	idle      *Conn              // a clean connection of this epoch
	active    *Conn              // what the holder of the turn uses
	abort     context.CancelFunc // ends the dialling of the holder of the turn
	drains    []*drain
	waiting   int // for the turn
}

// NewQueryQueue makes a queue; dial nil stands for Dial.
func NewQueryQueue(dial DialFunc, opts ...QueueOption) *QueryQueue {
	if dial == nil {
		dial = func(ctx context.Context, path string) (*Conn, error) { return Dial(ctx, path) }
	}
	q := &QueryQueue{dial: dial, opt: defaultQueueOptions(), turn: semaphore.NewWeighted(1), changed: make(chan struct{}, 1)}
	for _, opt := range opts {
		opt(&q.opt)
	}
	q.downSince = time.Now()
	q.dismiss(nil)
	return q
}

// Query runs SQL in its turn and returns all rows. It fails with the context's
// error, *StatusError (SQL that fails), ErrConnectionLost, ErrUnavailable,
// ErrMalformed, ErrTooLarge, ErrClosed, or the error of Fail.
func (q *QueryQueue) Query(ctx context.Context, sql string) (Rows, error) {
	return q.rows(ctx, methodQuery, sql)
}

// QueryColumns returns the columns and types of the first statement in SQL, one row
// each, without running it, in its turn; it fails as Query does.
func (q *QueryQueue) QueryColumns(ctx context.Context, sql string) (Rows, error) {
	return q.rows(ctx, methodColumns, sql)
}

// QueryEach runs SQL in its turn and calls fn with each row while the answer
// arrives; about 64 KiB of it are held, or one row if that is larger. It fails as
// Query does, or with what fn returned; fn may have been called by then. The turn
// lasts until fn has returned from the last row; fn runs in the goroutine of the
// caller and must not run a query on the same queue.
func (q *QueryQueue) QueryEach(ctx context.Context, sql string, fn func(Row) error) error {
	return q.run(ctx, methodQuery, eachExchange(methodQuery, sql, fn))
}

func (q *QueryQueue) rows(ctx context.Context, method, sql string) (rows Rows, err error) {
	err = q.run(ctx, method, rowsExchange(method, sql, &rows))
	return rows, err
}

// Stats returns the numbers of the moment.
func (q *QueryQueue) Stats() QueueStats {
	q.mu.Lock()
	defer q.mu.Unlock()
	return QueueStats{Waiting: q.waiting, Draining: len(q.drains)}
}

// Reset sets where osqueryd, or its next worker, is reached. The query
// in flight fails with ErrConnectionLost; those that wait go on there.
func (q *QueryQueue) Reset(path string) {
	q.change(func() { q.path, q.failure, q.downSince = path, nil, time.Time{} })
}

// Suspend is for an osqueryd that went away and will be back: the query in flight
// fails with ErrConnectionLost, those that wait go on waiting for Reset, each
// under its own context and for no longer than the queue's patience.
func (q *QueryQueue) Suspend() {
	q.change(func() { q.path, q.downSince = "", time.Now() })
}

// Fail is for an osqueryd that is gone: the query in flight fails with
// ErrConnectionLost, all others, and those to come until Reset, with err.
func (q *QueryQueue) Fail(err error) {
	if err == nil {
		err = ErrUnavailable
	}
	q.change(func() {
		q.path, q.failure = "", err
		q.dismiss(err)
	})
}

// Close fails every query with ErrClosed, closes all connections and joins the
// goroutines that wait for late answers. It may be called more than once, and
// from a callback of QueryEach.
func (q *QueryQueue) Close() error {
	q.change(func() {
		q.closed = true
		q.dismiss(ErrClosed)
	})
	q.drainWG.Wait()
	return nil
}

// change starts a new epoch: it applies set, and drops every connection.
func (q *QueryQueue) change(set func()) {
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		return
	}
	set()
	q.epoch++
	drop := []*Conn{q.idle, q.active}
	for _, d := range q.drains {
		drop = append(drop, d.conn)
	}
	q.idle, q.drains = nil, nil
	if q.abort != nil {
		q.abort()
	}
	q.mu.Unlock()
	for _, c := range drop {
		if c != nil {
			_ = c.Close()
		}
	}
	q.wake()
}

// wake makes the holder of the turn look again.
func (q *QueryQueue) wake() {
	select {
	case q.changed <- struct{}{}:
	default:
	}
}

// run runs one query in its turn.
func (q *QueryQueue) run(ctx context.Context, method string, ex exchange) error {
	if err := q.acquireTurn(ctx); err != nil {
		return notSent(ctx, method, err)
	}
	defer q.releaseTurn()
	for {
		l, err := q.connect(ctx)
		if err != nil {
			return notSent(ctx, method, err)
		}
		again, err := q.runOn(ctx, l, method, ex)
		if !again {
			return err
		}
	}
}

// notSent is the error of a query that osqueryd never had.
func notSent(ctx context.Context, method string, err error) error {
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return fmt.Errorf("%s: %w: %w", method, ErrWaiting, err)
	}
	return fmt.Errorf("%s: %w", method, err)
}

// runOn runs a query on a connection. It returns again when osqueryd cannot have
// received the query.
func (q *QueryQueue) runOn(ctx context.Context, l lease, method string, ex exchange) (again bool, err error) {
	o := outcome{phase: phaseAnswering, err: errPanicked} // which stands when a callback panics
	defer func() { again, err = q.finish(ctx, l, o) }()
	o.phase, o.err = l.conn.exchange(ctx, method, ex)
	return again, err
}

// errPanicked never reaches a caller: the panic does.
var errPanicked = errors.New("callback panicked")

// outcome is how an exchange ended.
type outcome struct {
	phase phase
	err   error
}

// Defaults of a QueryQueue.
const (
	defaultDrainGrace = 5 * time.Second
	defaultDrainTime  = 5 * time.Minute
	defaultDrainCount = 4
	defaultPatience   = 30 * time.Second
)

// QueueOption changes how a QueryQueue behaves.
type QueueOption func(*queueOptions)

type queueOptions struct {
	grace    time.Duration
	drain    time.Duration
	drains   int
	patience time.Duration
}

func defaultQueueOptions() queueOptions {
	return queueOptions{
		grace:    defaultDrainGrace,
		drain:    defaultDrainTime,
		drains:   defaultDrainCount,
		patience: defaultPatience,
	}
}

// WithDrainGrace sets how long after a query was abandoned others wait for
// osqueryd to finish it, before they run beside it on a connection of their
// own. The default is defaultDrainGrace; 0 or less means not at all.
func WithDrainGrace(d time.Duration) QueueOption {
	return func(o *queueOptions) { o.grace = d }
}

// SetDrainGrace changes what WithDrainGrace set.
func (q *QueryQueue) SetDrainGrace(d time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.opt.grace = d
}

// WithPatience sets for how long osqueryd may be unreachable (suspended, or
// refusing connections) before queries fail with ErrUnavailable. The default
// is defaultPatience; 0 or less means that one failure is enough.
func WithPatience(d time.Duration) QueueOption {
	return func(o *queueOptions) { o.patience = d }
}

// acquireTurn waits for the turn, first come first served. Without an error the caller must pass it on. Fail and Close end the wait.
func (q *QueryQueue) acquireTurn(ctx context.Context) error {
	q.mu.Lock()
	err, refused := q.refusal(), q.refused
	q.mu.Unlock()
	switch {
	case err != nil:
		return err
	case ctx.Err() != nil:
		return ctx.Err()
	case q.turn.TryAcquire(1):
		return nil
	}
	q.countWaiting(1)
	defer q.countWaiting(-1)
	wait, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(refused, cancel)()
	err = q.turn.Acquire(wait, 1)
	if err != nil && ctx.Err() == nil {
		return context.Cause(refused)
	}
	return err
}

func (q *QueryQueue) countWaiting(n int) {
	q.mu.Lock()
	q.waiting += n
	q.mu.Unlock()
}

func (q *QueryQueue) releaseTurn() { q.turn.Release(1) }

// dismiss ends the wait of all who wait for their turn; q.mu is held.
func (q *QueryQueue) dismiss(err error) {
	if q.refuse != nil {
		q.refuse(err)
	}
	q.refused, q.refuse = context.WithCancelCause(context.Background())
}

// refusal returns why no query can run; q.mu is held.
func (q *QueryQueue) refusal() error {
	if q.closed {
		return ErrClosed
	}
	return q.failure
}

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

// finish decides what becomes of a connection after an exchange, and of the
// query: whether to run it again, or which error its caller gets.
func (q *QueryQueue) finish(ctx context.Context, l lease, o outcome) (again bool, err error) {
	q.mu.Lock()
	q.active = nil
	gaveUp := o.err != nil && ctx.Err() != nil && errors.Is(o.err, ctx.Err())
	lost := o.phase != phaseDone && !gaveUp && isLoss(o.err)
	current := l.epoch == q.epoch
	keep, surplus := q.place(l, o, gaveUp)
	again = lost && o.phase <= phaseSending && (l.used || !current) && !q.closed
	err = q.queryError(o, lost, again, gaveUp)
	q.mu.Unlock()
	if !keep {
		_ = l.conn.Close()
	}
	if surplus != nil {
		_ = surplus.Close()
	}
	return again, err
}

// place keeps a connection for the next query, or uses it for a drain, which can
// make another one superfluous; q.mu is held.
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

// queryError is the error that the caller of a query gets; q.mu is held.
func (q *QueryQueue) queryError(o outcome, lost, again, gaveUp bool) error {
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
