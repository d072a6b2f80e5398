package instance

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/osqvisor/osqvisor/internal/thriftconn"
	"github.com/osqvisor/osqvisor/stats"
)

// serve keeps a ready instance ready until ctx ends, osqueryd exits, or something fails that
// cannot be repaired in place.
func (r *run) serve(ctx context.Context) error {
	r.health = r.newHealth()
	r.syncTables(ctx)
	health, flags := time.NewTimer(r.in.live.Load().health.first(time.Now())), time.NewTimer(readBackDelay)
	defer health.Stop()
	defer flags.Stop()
	for {
		if err := r.serveOne(ctx, health, flags); err != nil {
			return err
		}
	}
}

// readBackDelay keeps some hundred rows a run, which nobody waits for, out of the moments
// in which many instances start.
const readBackDelay = time.Second

func (r *run) serveOne(ctx context.Context, health, flags *time.Timer) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-r.proc.Exited():
		return errExited
	case <-r.session.sentinel.Lost():
		return r.workerEnded(ctx)
	case q := <-r.in.requests:
		r.serveRequest(ctx, q)
		return nil
	case <-flags.C:
		r.readBackFlags(ctx)
		return nil
	case <-health.C:
		err := r.checkHealth(ctx)
		health.Reset(r.in.live.Load().health.next(time.Now()))
		return err
	}
}

// workerEnded takes the run from a lost worker to the next one: what depends on the worker
// waits, a worker that only lost its connections is connected to again, and otherwise the next
// one, which osqueryd's watcher starts, is waited for and registered with. osqueryd ends if our
// extension does not come.
func (r *run) workerEnded(ctx context.Context) error {
	lost, began := time.Now(), r.loggerActivations()
	r.lastPID = r.session.pid
	r.setReady(false)
	r.in.queries.Suspend()
	r.session.hangUp()
	if r.hasExited() {
		return errExited
	}
	r.in.emit(stats.WorkerLost{Head: r.in.head()})
	if r.reattach(ctx, lost) {
		return nil
	}
	r.noteDeath()
	if ctx.Err() == nil {
		r.in.ext.OsquerydGone(true) // before the next worker fetches its config
	}
	r.closeSession(r.in.live.Load().timeouts.giveUp())
	if err := r.attachNext(ctx, began); err != nil {
		return err
	}
	r.announceWorker(lost)
	return nil
}

// attachNext registers with the next worker, within Timeouts.Replace, and makes the run ready.
func (r *run) attachNext(ctx context.Context, began int) error {
	bounded, cancel := context.WithTimeout(ctx, r.in.live.Load().timeouts.Replace)
	defer cancel()
	if err := r.attach(bounded, began); err != nil {
		switch {
		case errors.Is(err, errCrashLoop):
			return err
		case r.hasExited() || errors.Is(err, errExited):
			return errExited
		case ctx.Err() != nil:
			return ctx.Err()
		}
		return fmt.Errorf("%w: no worker came back within %v: %w", errUnhealthy, r.in.live.Load().timeouts.Replace, err)
	}
	r.stderr.reset()
	r.info(bounded)
	r.noteDenylisted(bounded)
	r.setReady(true)
	r.syncTables(ctx)
	r.health = r.newHealth()
	return nil
}

// announceWorker emits that a worker is registered with again: a new one, and why the last one
// ended, or the same.
func (r *run) announceWorker(lost time.Time) {
	defer r.setAnnounced()
	if pid := r.session.pid; pid != 0 && pid == r.lastPID {
		r.quick = max(0, r.quick-1)
		r.in.emit(stats.RegistrationRestored{Head: r.in.head(), Elapsed: time.Since(lost)})
		return
	}
	r.in.emit(stats.WorkerReplaced{Head: r.in.head(), Reason: r.whyReplaced(r.lastPID), Elapsed: time.Since(lost)})
}

// whyReplaced returns why the worker of that pid ended, as far as it is known.
func (r *run) whyReplaced(pid int) string {
	killed := r.noteOOM()
	if why := r.announceKill(pid); why != "" || !killed {
		return why
	}
	return "the kernel killed for want of memory"
}

// announceKill emits that the watchdog stopped the worker of that pid, if it did, and returns
// why.
func (r *run) announceKill(pid int) (why string) {
	e, ok := r.stderr.stopOf(pid)
	if !ok {
		return ""
	}
	r.in.emit(e)
	return e.Message
}

// loggerActivations returns how many workers have activated our logger.
func (r *run) loggerActivations() int {
	r.in.mu.Lock()
	defer r.in.mu.Unlock()
	return r.activated.logger
}

// reattach reports whether the worker whose connections were lost is still the one that we are
// registered with, and connects to it again. Nothing is registered anew then: osqueryd would
// exit if it logged a result in a moment without the logger.
func (r *run) reattach(ctx context.Context, lost time.Time) bool {
	ctx, cancel := context.WithTimeout(ctx, r.in.live.Load().health.Timeout)
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
	r.in.emit(stats.RegistrationRestored{Head: r.in.head(), Elapsed: time.Since(lost)})
	r.setAnnounced()
	return true
}

// sameWorker reports whether the session's worker serves the socket and lists our extension.
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

// request is something that only the run's goroutine may do, for another goroutine.
type request struct {
	do   func(ctx context.Context, r *run) error
	done chan error // has room for the result
}

// onRun calls do on the goroutine of the current run, and waits for it under ctx. It fails
// with ErrNotRunning when there is no run, or it ends first; a run that is not
// ready, or not again, counts as none unless wait is set.
func (in *Instance) onRun(ctx context.Context, wait bool, do func(context.Context, *run) error) error {
	q := request{do: do, done: make(chan error, 1)}
	ctx, cancel := context.WithTimeoutCause(ctx, in.requestBound(wait), errRequestTimeout)
	defer cancel()
	for {
		in.mu.Lock()
		ready := in.current != nil && in.current.ready
		coming := in.current != nil && !in.current.over && wait
		changed := in.changed
		in.mu.Unlock()
		requests := in.requests
		switch {
		case ready:
		case coming:
			requests = nil // nobody serves it yet
		default:
			return in.notRunning()
		}
		select {
		case requests <- q:
			return in.await(ctx, q)
		case <-changed: // look again
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// errRequestTimeout is reached only when the run's goroutine itself is blocked.
var errRequestTimeout = errors.New("the run did not get to it in time; a health check must not wait for its own instance")

// requestBound is longer than anything the run may be busy with.
func (in *Instance) requestBound(wait bool) time.Duration {
	d := 2*in.live.Load().timeouts.Register + in.live.Load().health.Timeout + in.live.Load().timeouts.giveUp()
	if wait {
		d += in.live.Load().timeouts.Start
	}
	return d
}

// serveRequest does what was requested.
func (r *run) serveRequest(ctx context.Context, q request) {
	err := r.reconnect(ctx)
	if err == nil {
		err = q.do(ctx, r)
	}
	q.done <- err
}

// await waits for a request that the run has received; the run serves every one.
func (in *Instance) await(ctx context.Context, q request) error {
	select {
	case err := <-q.done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// pushLate pushes a config that arrived after osqueryd's request had timed out. At a start that is
// before ready, so it waits for that; it ends with the run.
func (in *Instance) pushLate() {
	ctx, cancel := context.WithTimeout(context.Background(), in.live.Load().timeouts.Start+in.live.Load().timeouts.Register)
	defer cancel()
	release, err := in.lockPush(ctx)
	if err == nil {
		defer release()
		err = in.pushNewest(ctx, true)
	}
	if err != nil {
		in.log.Warn("a late config could not be pushed; osqueryd fetches it at its next refresh", "err", err)
	}
}

// lockPush waits until nobody else pushes a config.
func (in *Instance) lockPush(ctx context.Context) (release func(), err error) {
	select {
	case in.pushing <- struct{}{}:
		return func() { <-in.pushing }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("instance %q: another push of a config is under way: %w", in.o.id, context.Cause(ctx))
	}
}

// pushNewest pushes until osqueryd has the newest config: while a push is under way, osqueryd may
// fetch a newer one, which the older must not replace.
func (in *Instance) pushNewest(ctx context.Context, wait bool) error {
	for {
		config, pending := in.ext.PendingConfig()
		if !pending {
			return nil
		}
		if err := in.push(ctx, wait, config); err != nil {
			return err
		}
		in.ext.ConfigDelivered(config)
		in.emit(stats.ConfigPushed{Head: in.head()})
	}
}

// push calls osqueryd's update for every source.
func (in *Instance) push(ctx context.Context, wait bool, config map[string]string) error {
	return in.onRun(ctx, wait, func(ctx context.Context, r *run) error {
		ctx, cancel := context.WithTimeout(ctx, r.in.live.Load().timeouts.Register)
		defer cancel()
		for _, source := range sortedKeys(config) {
			status, _, err := r.session.control.Call(ctx, "config", "update", map[string]string{
				"action": "update", "source": source, "data": config[source],
			})
			if err != nil {
				return err
			}
			if status.Code != 0 {
				return fmt.Errorf("osqueryd refused config source %q: %s", source, status.Message)
			}
		}
		return nil
	})
}
