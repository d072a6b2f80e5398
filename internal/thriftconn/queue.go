package thriftconn

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
)

// DialFunc connects to osqueryd's manager socket at path, one try; Dial does.
// It must return soon after ctx ends.
type DialFunc func(ctx context.Context, path string) (*Conn, error)

// QueueStats counts what a QueryQueue did since it was made.
type QueueStats struct {
	Run       uint64 // queries that osqueryd answered, with rows or with a refusal
	Failed    uint64 // queries that osqueryd refused, or that were lost in flight
	Abandoned uint64 // queries that were given up in flight
	Withdrawn uint64 // queries that were given up, or failed, before they were sent
	Waiting   int    // queries that wait for their turn now
	Draining  int    // abandoned queries whose answer is still awaited now
}

// QueryQueue runs queries on one osqueryd, one at a time, first come first
// served. Any number of goroutines may use it; each waits under its own
// context, and learns by ErrWaiting or ErrInFlight where the end of that met its
// query. A caller that gives up returns at once. If its query was in flight osqueryd
// goes on with it, so the next queries wait for the late answer, which is thrown away,
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
	stats     QueueStats
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
// ErrMalformed, ErrTooLarge, ErrClosed, or what Fail was given.
func (q *QueryQueue) Query(ctx context.Context, sql string) (Rows, error) {
	return q.rows(ctx, methodQuery, sql)
}

// QueryColumns returns the columns and types of the first statement in SQL, one row
// each, without running it, in its turn; it fails as Query does.
func (q *QueryQueue) QueryColumns(ctx context.Context, sql string) (Rows, error) {
	return q.rows(ctx, methodColumns, sql)
}

// QueryEach is Conn.QueryEach in its turn; it fails as Query does, or with what
// fn returned. The turn lasts until fn has seen the last row; fn must not run a
// query on the same queue.
func (q *QueryQueue) QueryEach(ctx context.Context, sql string, fn func(Row) error) error {
	return q.run(ctx, methodQuery, eachExchange(methodQuery, sql, fn))
}

func (q *QueryQueue) rows(ctx context.Context, method, sql string) (rows Rows, err error) {
	err = q.run(ctx, method, rowsExchange(method, sql, &rows))
	return rows, err
}

// Stats returns the counts so far.
func (q *QueryQueue) Stats() QueueStats {
	q.mu.Lock()
	defer q.mu.Unlock()
	s := q.stats
	s.Draining = len(q.drains)
	return s
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
	if err := q.takeTurn(ctx); err != nil {
		q.countWithdrawn()
		return notSent(ctx, method, err)
	}
	defer q.passTurn()
	for {
		l, err := q.connect(ctx)
		if err != nil {
			q.countWithdrawn()
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

func (q *QueryQueue) countWithdrawn() {
	q.mu.Lock()
	q.stats.Withdrawn++
	q.mu.Unlock()
}

// runOn runs a query on a connection and settles what becomes of that. It says
// to try again when osqueryd cannot have received the query.
func (q *QueryQueue) runOn(ctx context.Context, l lease, method string, ex exchange) (again bool, err error) {
	o := outcome{phase: phaseAnswering, err: errPanicked} // which stands when a callback panics
	defer func() { again, err = q.settle(ctx, l, o) }()
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

// WithPatience sets for how long osqueryd may be unreachable (suspended, or
// refusing connections) before queries fail with ErrUnavailable. The default
// is defaultPatience; 0 or less means that one failure is enough.
func WithPatience(d time.Duration) QueueOption {
	return func(o *queueOptions) { o.patience = d }
}

// takeTurn waits for the turn, first come first served. Without an error the caller must pass it on. Fail and Close end the wait.
func (q *QueryQueue) takeTurn(ctx context.Context) error {
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
	q.stats.Waiting += n
	q.mu.Unlock()
}

func (q *QueryQueue) passTurn() { q.turn.Release(1) }

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
