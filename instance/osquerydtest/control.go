package osquerydtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// ErrProcessGone is returned for a command to a process that has ended.
var ErrProcessGone = errors.New("the fake process has ended")

// Process is a fake process that was alive when it was asked for. Its methods
// are safe for concurrent use. The commands return when the process has done
// what was asked, so that a test needs no sleeps.
type Process struct {
	fake    *Fake
	id      identity
	conn    net.Conn
	order   int
	workers int // watcher: started so far
	done    chan struct{}

	sendMu sync.Mutex
	enc    *json.Encoder

	// Guarded by fake.mu:
	reached []Phase // a superset of phases
	phases  []Phase
	nextID  int
	pending map[int]chan *message
}

// PID is the process id.
func (p *Process) PID() int { return p.id.PID }

// Role is the part that the process plays.
func (p *Process) Role() Role { return p.id.Role }

// WatcherPID is the pid of a worker's watcher, else 0.
func (p *Process) WatcherPID() int { return p.id.Watcher }

// Run numbers the runs of an instance, from 1.
func (p *Process) Run() int { return p.id.Run }

// Worker numbers the workers of a run, from 1.
func (p *Process) Worker() int { return p.id.Worker }

// Args is argv.
func (p *Process) Args() []string { return slices.Clone(p.id.Args) }

// Socket is the path of the extension manager's socket.
func (p *Process) Socket() string { return p.id.Socket }

// DatabasePath is the value of --database_path.
func (p *Process) DatabasePath() string { return p.id.DB }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// String describes the process for messages.
func (p *Process) String() string {
	return fmt.Sprintf("%s pid %d (run %d, worker %d): %s", p.id.Role, p.id.PID, p.id.Run, p.id.Worker, strings.Join(p.id.Args, " "))
}

// Reached says whether the process has reached a phase, though the phase's
// rules may still hold it there: for WaitProcess.
func (p *Process) Reached(ph Phase) bool {
	p.fake.mu.Lock()
	defer p.fake.mu.Unlock()
	return slices.Contains(p.reached, ph)
}

// Passed says whether the process has passed a phase, with all that its rules
// do there.
func (p *Process) Passed(ph Phase) bool {
	p.fake.mu.Lock()
	defer p.fake.mu.Unlock()
	return slices.Contains(p.phases, ph)
}

// WaitPhase waits until the process has passed a phase, or is gone
// (ErrProcessGone).
func (p *Process) WaitPhase(ctx context.Context, ph Phase) error {
	for {
		p.fake.mu.Lock()
		changed, passed := p.fake.changed, slices.Contains(p.phases, ph)
		p.fake.mu.Unlock()
		switch {
		case passed:
			return nil
		case isClosed(p.done):
			return fmt.Errorf("wait for phase %s: %w", ph, ErrProcessGone)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait for phase %s of pid %d: %w", ph, p.id.PID, ctx.Err())
		}
	}
}

// Wait waits for the end of the process.
func (p *Process) Wait(ctx context.Context) error {
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the end of pid %d: %w", p.id.PID, ctx.Err())
	}
}

// Watcher returns the live watcher of a worker; false without one.
func (p *Process) Watcher() (*Process, bool) {
	p.fake.mu.Lock()
	defer p.fake.mu.Unlock()
	w := p.fake.watcherOf(p.id)
	return w, w != nil
}

// Do makes the process do an action now. Exit and Kill return when it is gone;
// WatchdogMemory and WatchdogCPU, which may be given to a worker or its
// watcher, when the worker is gone.
func (p *Process) Do(ctx context.Context, a Action) error {
	target := p
	if a.Do == WatchdogMemory || a.Do == WatchdogCPU {
		if w, ok := p.Watcher(); ok {
			target = w
		}
	}
	_, err := target.ask(ctx, &message{Cmd: cmdAct, Action: &a})
	if (a.Do == Exit || a.Do == Kill) && errors.Is(err, ErrProcessGone) {
		return nil
	}
	return err
}

// Emit sends result lines to the logger plugin, as a scheduled query does, and
// returns when the logger has answered. As in osqueryd, a logger that refuses
// a line ends the process with 78.
func (p *Process) Emit(ctx context.Context, lines ...string) error {
	_, err := p.ask(ctx, &message{Cmd: cmdEmit, Lines: lines})
	return err
}

// EmitStatus writes status lines to stderr and relays all waiting ones to the
// logger plugin.
func (p *Process) EmitStatus(ctx context.Context, lines ...string) error {
	_, err := p.ask(ctx, &message{Cmd: cmdStatus, Lines: lines})
	return err
}

// RunSchedule runs scheduled queries now, whatever their interval: those
// named, or all. It returns when their results are logged.
func (p *Process) RunSchedule(ctx context.Context, names ...string) error {
	_, err := p.ask(ctx, &message{Cmd: cmdSchedule, Names: names})
	return err
}

// RunDistributed asks the distributed plugin for queries now, runs them and
// writes their results.
func (p *Process) RunDistributed(ctx context.Context) error {
	_, err := p.ask(ctx, &message{Cmd: cmdDistributed})
	return err
}

// RefreshConfig asks the config plugin now.
func (p *Process) RefreshConfig(ctx context.Context) error {
	_, err := p.ask(ctx, &message{Cmd: cmdRefresh})
	return err
}

// Stats returns what a worker has counted since its start.
func (p *Process) Stats(ctx context.Context) (Stats, error) {
	m, err := p.ask(ctx, &message{Cmd: cmdStats})
	if err != nil {
		return Stats{}, err
	}
	if m.Stats == nil {
		return Stats{}, nil
	}
	return *m.Stats, nil
}

// ask sends a command and waits for its answer.
func (p *Process) ask(ctx context.Context, m *message) (*message, error) {
	ch := make(chan *message, 1)
	p.fake.mu.Lock()
	p.nextID++
	m.ID = p.nextID
	p.pending[m.ID] = ch
	p.fake.mu.Unlock()
	p.send(m)
	select {
	case answer := <-ch:
		if answer.Err != "" {
			return nil, fmt.Errorf("%s on pid %d: %s", m.Cmd, p.id.PID, answer.Err)
		}
		return answer, nil
	case <-p.done:
		return nil, fmt.Errorf("%s on pid %d: %w", m.Cmd, p.id.PID, ErrProcessGone)
	case <-ctx.Done():
		return nil, fmt.Errorf("%s on pid %d: %w", m.Cmd, p.id.PID, ctx.Err())
	}
}

func (p *Process) send(m *message) {
	p.sendMu.Lock()
	defer p.sendMu.Unlock()
	_ = p.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	_ = p.enc.Encode(m) // a dead process shows by done
}

// forceKill ends a process that is alive: the open connection proves that the
// pid is still its own.
func (p *Process) forceKill() {
	if p.id.PID == os.Getpid() {
		return // played by goroutines of this process
	}
	if proc, err := os.FindProcess(p.id.PID); err == nil {
		_ = proc.Kill()
	}
	_ = p.conn.Close()
}
