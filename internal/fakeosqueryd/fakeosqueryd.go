// Package fakeosqueryd is the engine of the fake osqueryd: one process of an osqueryd that is imitated, with its flags, locks,
// registry, config, schedule, SQL and its texts, and no way to misbehave but by its [Director]. Package osquerydtest is how tests
// use it, and describes what it can do.
package fakeosqueryd

import (
	"fmt"
	"io"
	"time"
)

// DefaultVersion is the osquery version without Config.Version.
const DefaultVersion = "5.23.0"

// Config is how a process behaves.
type Config struct {
	// Args is argv. Stdout and Stderr must not be nil.
	Args           []string
	Stdout, Stderr io.Writer

	// Version, the scales and the times are as in osquerydtest.Script.
	Version                  string
	TimeScale, DeadlineScale float64
	WatcherPoll, QuickDeath  time.Duration
	Tables                   []Table
	Director                 Director // nil for an osqueryd that behaves
}

// Table is a table with fixed content. All columns are TEXT; a missing one is empty.
type Table struct {
	Name    string
	Columns []string
	Rows    []map[string]string
}

// Director learns what phases a process passes, and may make it misbehave there by its methods.
type Director interface {
	// Identified is called once the command line is read, before the process does anything else.
	Identified(p *Process)
	// Passes is called at a phase of the process's own life, and holds it up until it returns.
	Passes(p *Process, ph Phase)
	// Call is called for a registration, a call, or a query, with the name or the SQL, and returns what is to be wrong with the answer.
	Call(p *Process, ph Phase, text string) Fault
}

// Phase is a point in the life of a process.
type Phase string

// The phases, as osquerydtest has them.
const (
	PhaseStart          Phase = "start"
	PhaseBeforePidfile  Phase = "before-pidfile"
	PhaseAfterPidfile   Phase = "after-pidfile"
	PhaseBeforeDatabase Phase = "before-database"
	PhaseAfterDatabase  Phase = "after-database"
	PhaseBeforeSocket   Phase = "before-socket"
	PhaseAfterSocket    Phase = "after-socket"
	PhaseRequire        Phase = "require"
	PhaseConfig         Phase = "config"
	PhaseLogger         Phase = "logger"
	PhaseReady          Phase = "ready"
	PhaseRegister       Phase = "register"
	PhaseCall           Phase = "call"
	PhaseQuery          Phase = "query"
	PhaseScheduled      Phase = "scheduled"
	PhaseStop           Phase = "stop"
	PhaseStopped        Phase = "stopped"
)

// Fault is what is wrong with an answer; the zero Fault is a proper answer.
type Fault struct {
	Kind  FaultKind
	Text  string // of Refuse
	Bytes int64  // of Huge
}

// FaultKind is a kind of fault.
type FaultKind string

// The faults, as osquerydtest has them.
const (
	Reset    FaultKind = "reset"
	Rubbish  FaultKind = "rubbish"
	Truncate FaultKind = "truncate"
	Huge     FaultKind = "huge"
	Refuse   FaultKind = "refuse"
)

func (c *Config) version() string {
	if c.Version == "" {
		return DefaultVersion
	}
	return c.Version
}

// period scales a time that osqueryd waits by itself.
func (c *Config) period(d time.Duration) time.Duration { return scaled(d, c.TimeScale) }

// deadline scales a time that osqueryd grants to others.
func (c *Config) deadline(d time.Duration) time.Duration { return scaled(d, c.DeadlineScale) }

func (c *Config) watcherPoll() time.Duration {
	if c.WatcherPoll > 0 {
		return c.WatcherPoll
	}
	return c.period(3 * time.Second)
}

func (c *Config) quickDeath() time.Duration {
	if c.QuickDeath > 0 {
		return c.QuickDeath
	}
	return c.period(4 * time.Second)
}

// scaled never returns less than a millisecond, so that a tiny scale does not
// turn a poll into a busy loop.
func scaled(d time.Duration, scale float64) time.Duration {
	if scale == 0 {
		scale = 1
	}
	return max(time.Duration(float64(d)*scale), time.Millisecond)
}

// What follows is for a Director, and for whoever controls the process. All of it is safe for concurrent use.

// ID returns who the process is.
func (p *Process) ID() Identity { return p.id }

// SetNumbers sets what numbers the run and the worker have. It is for Director.Identified only.
func (p *Process) SetNumbers(run, worker int) { p.id.Run, p.id.Worker = run, worker }

// Dead is closed when the process died without cleaning up.
func (p *Process) Dead() <-chan struct{} { return p.dead }

// Die ends the process at once, by an exit code or a signal, and leaves its files behind.
func (p *Process) Die(code, signal int) { p.die(p, code, signal) }

// Hang makes the process answer nothing any more, HangCalls nothing but pings, Unhang everything again.
func (p *Process) Hang() { p.gate.set(gateAll) }

// HangCalls makes the process answer pings only.
func (p *Process) HangCalls() { p.gate.set(gateCalls) }

// Unhang ends Hang and HangCalls.
func (p *Process) Unhang() { p.gate.set(gateOpen) }

// WaitUnhang returns when the process does not hang any more, or is dead.
func (p *Process) WaitUnhang() { p.gate.wait(gateAll, p.dead) }

// NeverListen keeps a process that has not opened its socket yet from doing so.
func (p *Process) NeverListen() { p.noSocket.Store(true) }

// NextUUIDZero assigns UUID 0 to the next extension.
func (p *Process) NextUUIDZero() { p.zeroUUID.Store(true) }

// IgnoreTerm makes the process ignore requests to stop.
func (p *Process) IgnoreTerm() { p.ignoreTerm.Store(true) }

// Delay returns after d, or when the process is dead. It does not end early on a stop: a slow osqueryd is slow to stop, too.
func (p *Process) Delay(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-p.dead:
	}
}

// Say writes a line to stderr that is no log line.
func (p *Process) Say(text string) { p.log.raw(text + "\n") }

// Flood writes n bytes of log lines to stderr.
func (p *Process) Flood(n int64) {
	const line = "I1121 00:00:00.000000     1 flood.cpp:1] flood flood flood flood flood flood flood flood flood flood\n"
	for n > 0 && !isClosed(p.dead) {
		p.log.raw(line)
		n -= int64(len(line))
	}
}

// Grow allocates and touches n bytes of memory, and keeps them. A watcher does nothing.
func (p *Process) Grow(n int64) {
	if w, ok := p.role.(*worker); ok {
		w.grow(n)
	}
}

// asWorker returns the part of the process that only a worker has.
func (p *Process) asWorker() (*worker, error) {
	w, ok := p.role.(*worker)
	if !ok {
		return nil, fmt.Errorf("a %s cannot do this", p.id.Role)
	}
	return w, nil
}

// work calls f for a worker.
func (p *Process) work(f func(*worker) error) error {
	w, err := p.asWorker()
	if err != nil {
		return err
	}
	return f(w)
}

// DeleteSocket removes the file of the socket; listening goes on.
func (p *Process) DeleteSocket() error {
	return p.work(func(w *worker) error { return w.server.deleteFile() })
}

// CloseConnections closes every connection of the manager socket.
func (p *Process) CloseConnections() error {
	return p.work(func(w *worker) error { w.server.closeConns(); return nil })
}

// DropRegistration forgets an extension, or all for an empty name, in silence.
func (p *Process) DropRegistration(name string) error {
	return p.work(func(w *worker) error { return w.registry.drop(name) })
}

// Emit logs result lines as a scheduled query does, and returns when the logger has answered.
func (p *Process) Emit(lines []string) error {
	return p.work(func(w *worker) error { return w.logs.emit(lines) })
}

// EmitStatus writes status lines, and relays all that wait to the logger.
func (p *Process) EmitStatus(lines []string) error {
	return p.work(func(w *worker) error {
		for _, line := range lines {
			w.p.log.info("osquerydtest:1", "%s", line)
		}
		w.logs.relay()
		return nil
	})
}

// RunSchedule runs the named scheduled queries now, or all, and returns when their results are logged.
func (p *Process) RunSchedule(names []string) error {
	return p.work(func(w *worker) error { return w.sched.runNow(names) })
}

// RunDistributed reads distributed queries, runs them and writes their results.
func (p *Process) RunDistributed() error {
	return p.work(func(w *worker) error { return w.dist.poll() })
}

// RefreshConfig reads the config.
func (p *Process) RefreshConfig() error {
	return p.work(func(w *worker) error { return w.config.refresh() })
}

// Stats returns what a worker has counted.
func (p *Process) Stats() (stats Stats, err error) {
	err = p.work(func(w *worker) error { stats = *w.count.snapshot(); return nil })
	return stats, err
}

// OverMemory makes the watchdog of a watcher kill its worker for its memory, of n bytes, and returns when it is gone.
func (p *Process) OverMemory(n int64) error {
	return p.watchdogKill(func(w *watcher) string {
		return fmt.Sprintf("Memory limits exceeded: %d bytes (limit is %dMB)", max(n, 300<<20), w.memoryLimit())
	})
}

// OverCPU is OverMemory for the use of the processor.
func (p *Process) OverCPU() error {
	return p.watchdogKill(func(*watcher) string {
		return "Maximum sustainable CPU utilization limit 1200ms exceeded for 12 seconds"
	})
}

func (p *Process) watchdogKill(reason func(*watcher) string) error {
	w, ok := p.role.(*watcher)
	if !ok {
		return fmt.Errorf("no live watcher is known: is the watchdog on?")
	}
	return w.kill(reason(w))
}

// phase tells the director of a phase of the process's own.
func (p *Process) phase(ph Phase) {
	if p.conf.Director != nil {
		p.conf.Director.Passes(p, ph)
	}
}

// at calls the director about an answer.
func (p *Process) at(ph Phase, text string) Fault {
	if p.conf.Director == nil {
		return Fault{}
	}
	return p.conf.Director.Call(p, ph, text)
}

func isClosed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}
