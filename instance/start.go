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
	if err := r.openSession(startCtx); err != nil {
		return r.startError(startCtx, err)
	}
	r.releaseGate() // osqueryd's start is over; what is left is ours
	r.words.ready()
	info := r.info(startCtx) // before ready, so that a stop right after it costs the record nothing
	r.phase = stats.PhaseServe
	r.setReady(true)
	r.in.emit(stats.RunReady{
		Head: r.in.head(), PID: r.proc.PID(), Took: time.Since(r.started),
		Version: info["version"], InstanceID: info["instance_id"],
	})
	r.setTold()
	return nil
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
	s := &session{control: control, file: socketFile(r.in.place())}
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
	if s.tables, err = r.registerTables(ctx, s.control); err != nil {
		return err
	}
	s.plugins, err = r.in.register(ctx, s.control, extensionName, pluginsOf(r.in.ext.Registry()))
	if err != nil {
		return err
	}
	return r.verify(ctx, s)
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
	r.in.mu.Lock()
	r.session = s
	r.in.mu.Unlock()
	r.in.queries.Reset(r.in.Socket())
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
