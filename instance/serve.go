package instance

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/osqvisor/osqvisor/stats"
)

// serve keeps a ready instance ready until it is told to stop, osqueryd exits, or
// something is wrong that cannot be mended in place.
func (r *run) serve(ctx context.Context) error {
	r.health = r.newHealth()
	r.syncTables(ctx)
	health, flags := time.NewTimer(r.o.firstHealth(time.Now())), time.NewTimer(readBackDelay)
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
		return r.replaced(ctx)
	case a := <-r.in.asks:
		r.answer(ctx, a)
		return nil
	case <-flags.C:
		r.readBackFlags(ctx)
		return nil
	case <-health.C:
		err := r.checkHealth(ctx)
		health.Reset(r.o.nextHealth(time.Now()))
		return err
	}
}

// replaced mends the run after the connection to the worker was lost: osqueryd's
// watcher starts a new one, which waits for our extension and takes everything
// down if it does not come.
func (r *run) replaced(ctx context.Context) error {
	lost, oldPID := time.Now(), r.session.pid
	r.lastPID = oldPID
	begun := r.loggerAsked()
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
		r.in.ext.OsquerydGone(true) // before the next worker asks for its config
	}
	r.closeSession()
	waitCtx, cancel := context.WithTimeout(ctx, r.o.replaceTimeout)
	defer cancel()
	if err := r.attach(waitCtx, begun); err != nil {
		switch {
		case errors.Is(err, errCrashLoop):
			return err
		case r.hasExited() || errors.Is(err, errExited):
			return errExited
		case ctx.Err() != nil:
			return ctx.Err()
		}
		return fmt.Errorf("%w: no worker came back within %v: %w", errUnhealthy, r.o.replaceTimeout, err)
	}
	r.words.ready()
	r.info(waitCtx)
	r.noteDenylisted(waitCtx)
	r.setReady(true)
	r.syncTables(ctx)
	r.health = r.newHealth()
	defer r.setTold()
	if pid := r.session.pid; pid != 0 && pid == oldPID {
		r.quick = max(0, r.quick-1)
		r.in.emit(stats.RegistrationMended{Head: r.in.head(), Took: time.Since(lost)})
		return nil
	}
	r.in.emit(stats.WorkerReplaced{Head: r.in.head(), Reason: r.whyReplaced(oldPID), Took: time.Since(lost)})
	return nil
}

// whyReplaced says why the last worker, of that pid, went, as far as somebody told.
func (r *run) whyReplaced(pid int) string {
	killed := r.noteOOM()
	if why := r.tellKill(pid); why != "" || !killed {
		return why
	}
	return "the kernel killed for want of memory"
}

// tellKill announces that the watchdog stopped the worker of that pid, if it did, and
// returns why.
func (r *run) tellKill(pid int) (why string) {
	e, ok := r.words.takeStop(pid)
	if !ok {
		return ""
	}
	r.in.emit(e)
	return e.Message
}

func (r *run) loggerAsked() int {
	r.in.mu.Lock()
	defer r.in.mu.Unlock()
	return r.asked.logger
}
