package instance

import (
	"context"
	"errors"
	"fmt"

	"github.com/osqvisor/osqvisor/internal/thriftconn"
)

// Errors of a query, which are wrapped.
var (
	// ErrQueryWaiting reports that a query was given up before osqueryd had it: it did not run.
	ErrQueryWaiting = errors.New("the query was still waiting for its turn")
	// ErrQueryRunning reports that a query was given up while osqueryd ran it, and goes on.
	ErrQueryRunning = errors.New("osqueryd was still running the query")
	// ErrConnectionLost reports that osqueryd ended while it ran the query, finished or not.
	ErrConnectionLost = errors.New("osqueryd went away while it ran the query")
	// ErrAnswerTooLarge reports an answer above Queries.MaxBytes.
	ErrAnswerTooLarge = errors.New("the answer is too large")
)

// Query runs SQL in the instance's osqueryd and returns all rows. Queries run one at a time,
// first come, first served, because osqueryd does not survive several at once; each waits under
// ctx, or for Queries.Timeout when ctx has no deadline, also while osqueryd starts or replaces
// its worker. A query that is given up returns at once and disturbs none that follows.
//
// When ctx ends, the error is ctx's with ErrQueryWaiting or ErrQueryRunning. It is a
// *QueryError when osqueryd refused the query; a *ParkedError, ErrNotRunning or ErrClosed when
// there is no osqueryd; ErrConnectionLost when osqueryd ended meanwhile; ErrAnswerTooLarge for an
// answer above Queries.MaxBytes.
func (in *Instance) Query(ctx context.Context, sql string) (Rows, error) {
	return in.rowsOf(ctx, sql, in.queries.Query)
}

// QueryEach runs SQL and calls fn with each row as it arrives, for answers that are too large to
// hold. An error from fn ends the query and is returned unchanged. Other queries wait until fn has
// seen the last row; fn's time counts against ctx, or Queries.Timeout. fn must not query the same
// instance. It fails as Query does, perhaps after some rows.
func (in *Instance) QueryEach(ctx context.Context, sql string, fn func(Row) error) error {
	ctx, cancel := in.queryContext(ctx)
	defer cancel()
	var own error // of fn, which is returned as it is
	err := in.queries.QueryEach(ctx, sql, func(row thriftconn.Row) error {
		if err := ctx.Err(); err != nil { // fn has used up the time
			return fmt.Errorf("%w: %w", thriftconn.ErrInFlight, err)
		}
		own = fn(Row{row})
		return own
	})
	in.rec.Counters().Query(err != nil)
	if own != nil {
		return own
	}
	return in.queryError(ctx, err)
}

// QueryColumns returns the names and types of the columns of a query's first statement,
// one row each, without running it. It fails as Query does.
func (in *Instance) QueryColumns(ctx context.Context, sql string) (Rows, error) {
	return in.rowsOf(ctx, sql, in.queries.QueryColumns)
}

func (in *Instance) rowsOf(
	ctx context.Context, sql string, do func(context.Context, string) (thriftconn.Rows, error),
) (Rows, error) {
	ctx, cancel := in.queryContext(ctx)
	defer cancel()
	rows, err := do(ctx, sql)
	in.rec.Counters().Query(err != nil)
	return Rows{rows}, in.queryError(ctx, err)
}

func (in *Instance) queryContext(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeoutCause(ctx, in.live.Load().queries.Timeout,
		fmt.Errorf("no answer within %v, Queries.Timeout: %w", in.live.Load().queries.Timeout, context.DeadlineExceeded))
}

// queryError names the instance and turns the connection's errors into the package's own.
func (in *Instance) queryError(ctx context.Context, err error) error {
	var refused *thriftconn.StatusError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &refused):
		err = &QueryError{Code: int(refused.Code), Message: refused.Message}
	case errors.Is(err, thriftconn.ErrClosed):
		err = ErrClosed
	case errors.Is(err, thriftconn.ErrTooLarge):
		err = fmt.Errorf("%w: %w", ErrAnswerTooLarge, err)
	case errors.Is(err, thriftconn.ErrConnectionLost):
		err = fmt.Errorf("%w: %w", ErrConnectionLost, err)
	case errors.Is(err, ErrNotRunning):
		return in.notRunning()
	case errors.Is(err, thriftconn.ErrWaiting):
		err = fmt.Errorf("the instance is %s: %w: %w", in.Snapshot().State, ErrQueryWaiting, context.Cause(ctx))
	case errors.Is(err, thriftconn.ErrInFlight):
		err = fmt.Errorf("%w: %w", ErrQueryRunning, context.Cause(ctx))
	}
	return fmt.Errorf("instance %q: %w", in.o.id, err)
}

func (in *Instance) newQueryQueue() *thriftconn.QueryQueue {
	dial := func(ctx context.Context, path string) (*thriftconn.Conn, error) {
		return thriftconn.Dial(ctx, path, thriftconn.WithMaxMessage(in.live.Load().queries.MaxBytes))
	}
	q := thriftconn.NewQueryQueue(dial,
		thriftconn.WithDrainGrace(max(0, in.live.Load().queries.AbandonedWait)),
		thriftconn.WithPatience(day))
	q.Fail(ErrNotRunning)
	return q
}

// discover runs a discovery query of a distributed read.
func (in *Instance) discover(ctx context.Context, sql string) (int, error) {
	rows, err := in.queries.Query(ctx, sql)
	return rows.Len(), err
}
