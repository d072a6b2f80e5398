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

// start takes a spawned osqueryd to ready: it connects, registers and verifies.
func (r *run) start(ctx context.Context) error {
	startCtx, cancel := context.WithTimeoutCause(ctx, r.in.live.Load().timeouts.Start, errStartTimeout)
	defer cancel()
	if err := r.attach(startCtx, 0); err != nil {
		return r.startError(startCtx, err)
	}
	r.stderr.reset()
	info := r.info(startCtx) // before ready, so that a stop right after it costs the record nothing
	r.noteDenylisted(startCtx)
	r.phase = stats.PhaseServe
	r.setReady(true)
	r.in.emit(stats.RunReady{
		Head: r.in.head(), PID: r.proc.PID(), Elapsed: time.Since(r.started),
		Version: info["version"], InstanceID: info["instance_id"],
	})
	r.setAnnounced()
	return nil
}

// attach registers with the worker that serves the socket and waits until that worker has
// activated our logger, which had been activated before, so many times. A worker that
// dies in between is replaced by osqueryd; when several do, attach fails with errCrashLoop.
func (r *run) attach(ctx context.Context, before int) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r.stderr.onCrashLoop(func() { cancel(errCrashLoop) })
	defer r.stderr.onCrashLoop(nil)
	for died := 0; died < crashLoopDeaths; died++ {
		err := r.openSession(ctx)
		if err == nil {
			r.releaseGate() // osqueryd's start is over; what is left is ours
			if !r.sameAsLost(ctx) {
				err = r.awaitLogger(ctx, before)
			}
		}
		switch {
		case err == nil:
			r.begun = true
			r.in.queries.Reset(r.in.Socket())
			return nil
		case r.hasExited() || !errors.Is(err, errWorkerLost):
			return loopOr(ctx, err)
		}
		r.noteDeath()
		r.in.emit(stats.WorkerLost{Head: r.in.head()})
		r.closeSession(r.in.live.Load().timeouts.giveUp())
	}
	return fmt.Errorf("%w: %d in a row", errCrashLoop, crashLoopDeaths)
}

// sameAsLost reports whether the worker is the one whose connections were lost: it has our
// logger already.
func (r *run) sameAsLost(ctx context.Context) bool {
	if r.lastPID == 0 {
		return false
	}
	r.info(ctx)
	return r.session.pid == r.lastPID
}

// loopOr puts the crash loop that ended a context before what failed by it.
func loopOr(ctx context.Context, err error) error {
	if errors.Is(context.Cause(ctx), errCrashLoop) {
		return fmt.Errorf("%w: %d in a row", errCrashLoop, crashLoopDeaths)
	}
	return err
}

// loggerWait bounds the wait for osqueryd to activate our logger. It fetches its
// config first, which takes 10 s unless the host allows more, by extension.Config.Timeout.
const loggerWait = 30 * time.Second

// loggerWaitWithin keeps half of the time for a start, so that a transport that hangs, for
// which osqueryd waits, does not fail it.
func loggerWaitWithin(ctx context.Context) time.Duration {
	end, ok := ctx.Deadline()
	if !ok {
		return loggerWait
	}
	return max(0, min(loggerWait, time.Until(end)/2))
}

// awaitLogger waits until osqueryd has activated our logger more often than before: it
// runs no query earlier, and ends itself if it does not find the logger then. An osqueryd
// that never does counts as ready after a while.
func (r *run) awaitLogger(ctx context.Context, before int) error {
	wait := loggerWaitWithin(ctx)
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		r.in.mu.Lock()
		begun, changed := r.activated.logger > before, r.in.changed
		r.in.mu.Unlock()
		if begun {
			return nil
		}
		select {
		case <-changed:
		case <-r.session.sentinel.Lost():
			return errWorkerLost
		case <-r.proc.Exited():
			return errExited
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-timer.C:
			r.log.Warn("osqueryd did not activate the logger", "waited", wait)
			return nil
		}
	}
}

// startError returns what ended a start: the exit of osqueryd before everything else.
func (r *run) startError(ctx context.Context, err error) error {
	if r.hasExited() {
		return errExited
	}
	if errors.Is(context.Cause(ctx), errStartTimeout) {
		return fmt.Errorf("%w (%v): %w", errStartTimeout, r.in.live.Load().timeouts.Start, err)
	}
	return err
}

func (r *run) hasExited() bool {
	select {
	case <-r.proc.Exited():
		return true
	default:
		return false
	}
}

// openSession connects to the worker that serves the socket now and registers
// with it, until that succeeds, osqueryd exits or ctx ends.
func (r *run) openSession(ctx context.Context) error {
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		s, err := r.tryOpenSession(ctx)
		if err == nil {
			r.adopt(s)
			return nil
		}
		if r.hasExited() {
			return errExited
		}
		if ctx.Err() != nil {
			return err
		}
		r.log.Debug("registration failed and is tried again", "err", err, "pause", pause)
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
		case <-r.proc.Exited():
		}
		timer.Stop()
	}
}

// tryOpenSession makes a session or nothing.
func (r *run) tryOpenSession(ctx context.Context) (*session, error) {
	socket := r.in.Socket()
	control, err := thriftconn.DialUntil(ctx, socket, r.proc.Exited())
	if err != nil {
		return nil, err
	}
	if r.phase == stats.PhaseConnect {
		r.phase = stats.PhaseRegister
	}
	ctx, cancel := context.WithTimeout(ctx, r.in.live.Load().timeouts.Register)
	defer cancel()
	s := &session{control: control, file: socketFile(ctx, r.in.place())}
	if err := r.fill(ctx, s); err != nil {
		s.close(r.in.live.Load().timeouts.giveUp())
		return nil, err
	}
	return s, nil
}

// info reads osquery_info. A failure costs two fields of an event, no more.
func (r *run) info(ctx context.Context) map[string]string {
	ctx, cancel := context.WithTimeout(ctx, r.in.live.Load().health.Timeout)
	defer cancel()
	rows, err := callTable(ctx, r.session.control, "osquery_info")
	if err != nil || len(rows) == 0 {
		r.log.Debug("osquery_info could not be read", "err", err)
		return map[string]string{"version": r.in.Binary().Version}
	}
	r.session.pid, _ = strconv.Atoi(rows[0]["pid"]) // 0 is unknown
	return rows[0]
}

// setReady sets whether requests are served, and wakes everybody who waits.
func (r *run) setReady(ready bool) {
	r.in.mu.Lock()
	defer r.in.mu.Unlock()
	if r.ready != ready {
		r.ready, r.announced = ready, false
		r.in.wake()
	}
}

// setAnnounced ends WaitReady: from here on a snapshot agrees. Requests were served before,
// because an observer of the event may make one.
func (r *run) setAnnounced() {
	r.in.mu.Lock()
	defer r.in.mu.Unlock()
	r.announced = r.ready
	r.in.wake()
}

// setOver wakes everybody who waits: this run will not be ready again.
func (r *run) setOver() {
	r.in.mu.Lock()
	defer r.in.mu.Unlock()
	r.ready, r.announced, r.over = false, false, true
	r.in.wake()
}

// hostDetails reads from osqueryd what an enrolment sends about the host. It does
// without SQL, which would have to wait for osqueryd's start to end.
func (in *Instance) hostDetails(ctx context.Context) map[string]map[string]string {
	details := map[string]map[string]string{}
	for _, table := range []string{"os_version", "osquery_info", "system_info", "platform_info"} {
		if rows, err := in.controlTable(ctx, table); err == nil && len(rows) > 0 {
			details[table] = rows[0]
		}
	}
	in.noteIdentity(details["osquery_info"])
	return details
}

// noteIdentity keeps what osqueryd calls itself in its logs. It is another one when its
// database is new.
func (in *Instance) noteIdentity(info map[string]string) {
	if id := info["instance_id"]; id != "" {
		in.mu.Lock()
		defer in.mu.Unlock()
		in.identity = id
	}
}

// controlTable reads one of osqueryd's tables on a connection of its own.
func (in *Instance) controlTable(ctx context.Context, table string) ([]map[string]string, error) {
	c, err := thriftconn.Dial(ctx, in.Socket())
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return callTable(ctx, c, table)
}
