package instance

import (
	"context"
	"strconv"
	"time"

	"github.com/osqvisor/osqvisor/internal/thriftconn"
	"github.com/osqvisor/osqvisor/stats"
)

// reattach says whether the worker whose connections to us were lost is still the one that
// we are registered with, and connects to it again. Nothing is registered anew then:
// taking the logger away for a moment would end osqueryd if it logged a result in it.
func (r *run) reattach(ctx context.Context, lost time.Time) bool {
	ctx, cancel := context.WithTimeout(ctx, r.o.healthTimeout)
	defer cancel()
	control, err := thriftconn.Dial(ctx, r.in.Socket())
	if err != nil {
		return false // the usual case: it is dead
	}
	sentinel, err := thriftconn.Watch(ctx, r.in.Socket())
	if err != nil {
		_ = control.Close() // it always succeeds
		return false
	}
	next := &session{control: control, sentinel: sentinel}
	if !r.sameWorker(ctx, control) {
		next.hangUp()
		return false
	}
	r.in.mu.Lock()
	r.session.control, r.session.sentinel = control, sentinel
	r.in.mu.Unlock()
	r.in.queries.Reset(r.in.Socket())
	r.setReady(true)
	r.syncTables(ctx) // SetTables found no run that was ready
	r.in.emit(stats.RegistrationMended{Head: r.in.head(), Took: time.Since(lost)})
	r.setTold()
	return true
}

// sameWorker asks who serves the socket now, and whether it knows us.
func (r *run) sameWorker(ctx context.Context, c *thriftconn.Conn) bool {
	rows, err := callTable(ctx, c, "osquery_info")
	if err != nil || len(rows) == 0 {
		return false
	}
	if pid, err := strconv.Atoi(rows[0]["pid"]); err != nil || pid == 0 || pid != r.session.pid {
		return false
	}
	list, err := c.Extensions(ctx)
	return err == nil && r.session.plugins.listed(list) == nil && r.session.tables.listed(list) == nil
}
