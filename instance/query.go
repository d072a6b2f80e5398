package instance

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/osqvisor/osqvisor/internal/thriftconn"
	"github.com/osqvisor/osqvisor/stats"
)

// Rows is the answer to a query: the column names once, and compact cells. It
// never changes, so any number of goroutines may read it.
type Rows = thriftconn.Rows

// Row is a view of one row of an answer.
type Row = thriftconn.Row

// QueryError is osqueryd's own refusal of a query: the SQL is wrong, or a table
// failed. It is what errors.As finds in the error of Query.
type QueryError = thriftconn.StatusError

// ErrConnectionLost says that osqueryd went away while the query was under way.
// Whether it ran is unknown.
var ErrConnectionLost = thriftconn.ErrConnectionLost

// Query asks osqueryd and gives all rows. Queries run one at a time, first come
// first served, because osqueryd collapses when they run side by side; each waits
// under its own context, or for the time of WithQueryTimeout when that has no
// deadline. A query that is given up returns at once and disturbs none that
// follows. While osqueryd is starting, or is replacing its worker, a query waits. In a
// table of the same instance it can wait for the very query that asks the table.
//
// It fails with *QueryError (osqueryd's refusal), the context's error,
// ErrNotRunning, ErrConnectionLost or ErrClosed; an answer that cannot be read, or is larger
// than 100 MiB, is another error.
func (in *Instance) Query(ctx context.Context, sql string) (Rows, error) {
	ctx, cancel := in.queryContext(ctx)
	defer cancel()
	rows, err := in.queries.Query(ctx, sql)
	in.rec.Counters().Query(err != nil)
	return rows, in.queryError(ctx, err)
}

// QueryEach is Query for answers that are too large to hold: fn is called with
// each row as it arrives. An error from it ends the query and is returned. It must
// not query the same instance.
func (in *Instance) QueryEach(ctx context.Context, sql string, fn func(Row) error) error {
	ctx, cancel := in.queryContext(ctx)
	defer cancel()
	err := in.queries.QueryEach(ctx, sql, fn)
	in.rec.Counters().Query(err != nil)
	return in.queryError(ctx, err)
}

// QueryColumns gives the columns and types of a query's first statement without running it.
func (in *Instance) QueryColumns(ctx context.Context, sql string) (Rows, error) {
	ctx, cancel := in.queryContext(ctx)
	defer cancel()
	rows, err := in.queries.QueryColumns(ctx, sql)
	return rows, in.queryError(ctx, err)
}

func (in *Instance) queryContext(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeoutCause(ctx, in.o.queryTimeout,
		fmt.Errorf("no answer within %v, the default of WithQueryTimeout: %w", in.o.queryTimeout, context.DeadlineExceeded))
}

// queryError puts the instance's name to what went wrong.
func (in *Instance) queryError(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, thriftconn.ErrClosed):
		return fmt.Errorf("instance %q: %w", in.o.id, ErrClosed)
	case errors.Is(err, context.DeadlineExceeded) && ctx.Err() != nil:
		return fmt.Errorf("instance %q (%s): %w", in.o.id, in.Snapshot().State, context.Cause(ctx))
	default:
		return fmt.Errorf("instance %q: %w", in.o.id, err)
	}
}

func (in *Instance) newQueryQueue() *thriftconn.QueryQueue {
	q := thriftconn.NewQueryQueue(nil,
		thriftconn.WithDrainGrace(in.o.abandonedQueryWait),
		thriftconn.WithPatience(day))
	q.Fail(ErrNotRunning)
	return q
}

// discover runs a discovery query of a distributed read.
func (in *Instance) discover(ctx context.Context, sql string) (int, error) {
	rows, err := in.queries.Query(ctx, sql)
	return rows.Len(), err
}

// hostDetails asks osqueryd for what an enrolment tells of the host. It does
// without SQL, which would have to wait for osqueryd's start to end.
func (in *Instance) hostDetails(ctx context.Context) map[string]map[string]string {
	details := map[string]map[string]string{}
	for _, table := range []string{"os_version", "osquery_info", "system_info", "platform_info"} {
		if rows, err := in.controlTable(ctx, table); err == nil && len(rows) > 0 {
			details[table] = rows[0]
		}
	}
	return details
}

// controlTable asks one of osqueryd's tables on a connection of its own.
func (in *Instance) controlTable(ctx context.Context, table string) ([]map[string]string, error) {
	c, err := thriftconn.Dial(ctx, in.paths.socket)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return callTable(ctx, c, table)
}

// caughtPanic is told of a panic behind osqueryd's calls that nobody nearer caught.
func (in *Instance) caughtPanic(value any, stack []byte) {
	in.caughtPanicIn("extension", value, stack)
}

func (in *Instance) caughtPanicIn(where string, value any, stack []byte) {
	in.log.Error("code of the host panicked and was contained", "where", where, "value", value)
	in.emit(stats.PanicCaught{Head: in.head(), Where: where, Value: fmt.Sprint(value), Stack: string(stack)})
}

// Health checks the registration now, on a connection of its own, and asks the
// host's checker. It returns nil when all is well, and changes nothing.
func (in *Instance) Health(ctx context.Context) (err error) {
	in.mu.Lock()
	r := in.current
	ready := r != nil && r.ready && r.session != nil
	var uuid int64
	if ready {
		uuid = r.session.plugins.uuid
	}
	in.mu.Unlock()
	if !ready {
		return in.notRunning()
	}
	ctx, cancel := context.WithTimeout(ctx, in.o.healthTimeout)
	defer cancel()
	rows, err := in.controlTable(ctx, "osquery_extensions")
	if err != nil {
		return fmt.Errorf("instance %q: %w", in.o.id, err)
	}
	want := strconv.FormatInt(uuid, 10)
	for _, row := range rows {
		if row["uuid"] == want && row["name"] == extensionName {
			return in.askHostChecker(ctx, nil)
		}
	}
	return fmt.Errorf("instance %q: osqueryd does not list our extension (UUID %s)", in.o.id, want)
}
