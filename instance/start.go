package instance

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/osquery/osquery-go/gen/osquery"

	"github.com/osqvisor/osqvisor/internal/thriftconn"
	"github.com/osqvisor/osqvisor/stats"
)

// tablesName is what osqueryd knows the registration of the host's tables by.
const tablesName = extensionName + "_tables"

// start takes a spawned osqueryd to ready: it connects, registers and verifies.
func (r *run) start(ctx context.Context) error {
	startCtx, cancel := context.WithTimeoutCause(ctx, r.o.startTimeout, errStartTimeout)
	defer cancel()
	if err := r.attach(startCtx, 0); err != nil {
		return r.startError(startCtx, err)
	}
	r.words.ready()
	info := r.info(startCtx) // before ready, so that a stop right after it costs the record nothing
	r.noteDenylisted(startCtx)
	r.phase = stats.PhaseServe
	r.setReady(true)
	r.in.emit(stats.RunReady{
		Head: r.in.head(), PID: r.proc.PID(), Took: time.Since(r.started),
		Version: info["version"], InstanceID: info["instance_id"],
	})
	r.setTold()
	return nil
}

// attach registers with the worker that serves the socket and waits until that worker has
// activated our logger, of which it had asked before as many times as given. A worker that
// dies in between is replaced by osqueryd; when several do, attach fails with errCrashLoop.
func (r *run) attach(ctx context.Context, before int) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r.words.whenLooping(func() { cancel(errCrashLoop) })
	defer r.words.whenLooping(nil)
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
		r.closeSession()
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

// loggerPatience bounds the wait for osqueryd to activate our logger. It asks for its
// config first, which takes 10 s unless the host allows more, by WithConfigTimeout.
const loggerPatience = 30 * time.Second

// patienceWithin keeps half of the time for a start, so that a transport that hangs, for
// which osqueryd waits, does not fail it.
func patienceWithin(ctx context.Context) time.Duration {
	end, ok := ctx.Deadline()
	if !ok {
		return loggerPatience
	}
	return max(0, min(loggerPatience, time.Until(end)/2))
}

// awaitLogger waits until osqueryd has asked our logger to begin more often than before: it
// runs no query earlier, and ends itself if it does not find the logger then. An osqueryd
// that does not ask at all is taken as it is, after a while.
func (r *run) awaitLogger(ctx context.Context, before int) error {
	patience := patienceWithin(ctx)
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		r.in.mu.Lock()
		begun, changed := r.asked.logger > before, r.in.changed
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
			r.log.Warn("osqueryd did not activate the logger", "waited", patience)
			return nil
		}
	}
}

// startError says what ended a start: the exit of osqueryd before everything else.
func (r *run) startError(ctx context.Context, err error) error {
	if r.hasExited() {
		return errExited
	}
	if errors.Is(context.Cause(ctx), errStartTimeout) {
		return fmt.Errorf("%w (%v): %w", errStartTimeout, r.o.startTimeout, err)
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
	ctx, cancel := context.WithTimeout(ctx, r.o.registerTimeout)
	defer cancel()
	s := &session{control: control, file: socketFile(ctx, r.in.place())}
	if err := r.fill(ctx, s); err != nil {
		s.close(r.o.killTimeout)
		return nil, err
	}
	return s, nil
}

// fill registers tables first and what osqueryd waits for last, so that the
// tables are there when its schedule starts.
func (r *run) fill(ctx context.Context, s *session) (err error) {
	if s.sentinel, err = thriftconn.Watch(ctx, r.in.Socket()); err != nil {
		return err
	}
	r.learnIdentity(ctx, s.control)
	if s.tables, err = r.registerTables(ctx, s.control); err != nil {
		return err
	}
	s.plugins, err = r.in.register(ctx, s.control, extensionName, pluginsOf(r.in.ext.Registry()))
	if err != nil {
		return err
	}
	return r.verify(ctx, s)
}

// learnIdentity asks osqueryd who it is before the first call of the transport bears it. A
// failure is no reason not to register: the enrolment asks again.
func (r *run) learnIdentity(ctx context.Context, c *thriftconn.Conn) {
	if r.o.hostID != "" {
		return
	}
	rows, err := callTable(ctx, c, "osquery_info")
	if err != nil || len(rows) == 0 {
		r.log.Debug("osqueryd's instance_id could not be read yet", "err", err)
		return
	}
	r.in.noteIdentity(rows[0])
}

// registerTables registers the host's tables, without those whose names osqueryd
// has already.
func (r *run) registerTables(ctx context.Context, c *thriftconn.Conn) (*registration, error) {
	r.tablesHave = r.in.tablesAsked.Load() // before they are read: a later SetTables is seen
	reg := r.in.ext.TableRegistry()
	if reg == nil {
		return nil, nil
	}
	g, err := r.in.register(ctx, c, tablesName, reg)
	if !thriftconn.IsDuplicateItem(err) {
		return g, err
	}
	if err := r.parkTables(ctx, c, reg, err); err != nil {
		return nil, err
	}
	if reg = r.in.ext.TableRegistry(); reg == nil {
		return nil, nil
	}
	return r.in.register(ctx, c, tablesName, reg)
}

// parkTables leaves out the tables that osqueryd, or somebody else's extension, has.
func (r *run) parkTables(ctx context.Context, c *thriftconn.Conn, reg osquery.ExtensionRegistry, why error) error {
	rows, err := callTable(ctx, c, "osquery_registry")
	if err != nil {
		return err
	}
	parked := 0
	for _, row := range rows {
		name := row["name"]
		if _, ours := reg["table"][name]; !ours || row["registry"] != "table" {
			continue
		}
		parked++
		r.in.ext.ParkTable(name)
		r.in.emit(stats.TableParked{Head: r.in.head(), Table: name, Err: why})
	}
	if parked == 0 {
		return why
	}
	return nil
}

// verify looks for our registrations in osqueryd's list: that it answered the
// registration, or a ping, is no proof that it kept it.
func (r *run) verify(ctx context.Context, s *session) error {
	list, err := s.control.Extensions(ctx)
	if err != nil {
		return err
	}
	return errors.Join(s.plugins.listed(list), s.tables.listed(list))
}

// adopt makes s the run's session.
func (r *run) adopt(s *session) {
	again := r.sessions > 0
	r.sessions++
	r.met, r.workerless, r.begun = time.Now(), false, false
	r.in.mu.Lock()
	r.session = s
	r.in.mu.Unlock()
	r.announce(again)
}

// announce tells of the registrations as they are now.
func (r *run) announce(again bool) {
	r.in.emit(stats.ExtensionRegistered{
		Head: r.in.head(), UUID: r.session.plugins.uuid, Again: again,
		Plugins: r.session.plugins.count() + r.session.tables.count(),
	})
}

// info asks osqueryd who it is. A failure costs two fields of an event, no more.
func (r *run) info(ctx context.Context) map[string]string {
	ctx, cancel := context.WithTimeout(ctx, r.o.healthTimeout)
	defer cancel()
	rows, err := callTable(ctx, r.session.control, "osquery_info")
	if err != nil || len(rows) == 0 {
		r.log.Debug("osquery_info could not be read", "err", err)
		return map[string]string{"version": r.in.Binary().Version}
	}
	r.session.pid, _ = strconv.Atoi(rows[0]["pid"]) // 0 is unknown
	return rows[0]
}

// setReady tells everybody who waits.
func (r *run) setReady(ready bool) {
	r.in.mu.Lock()
	defer r.in.mu.Unlock()
	if r.ready != ready {
		r.ready, r.told = ready, false
		r.in.wake()
	}
}

// setTold ends WaitReady: from here on a snapshot says so too. Requests were taken before,
// because an observer of the event may make one.
func (r *run) setTold() {
	r.in.mu.Lock()
	defer r.in.mu.Unlock()
	r.told = r.ready
	r.in.wake()
}

// setOver tells everybody who waits that this run will not be ready again.
func (r *run) setOver() {
	r.in.mu.Lock()
	defer r.in.mu.Unlock()
	r.ready, r.told, r.over = false, false, true
	r.in.wake()
}
