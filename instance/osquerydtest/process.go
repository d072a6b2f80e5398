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

	"github.com/osqvisor/osqvisor/internal/fakeosqueryd"
)

// ErrProcessGone is the error of a command to a process that has ended.
var ErrProcessGone = errors.New("the fake process has ended")

// Role is the part of a process.
type Role string

// The roles.
const (
	RoleWatcher Role = "watcher" // restarts the worker
	RoleWorker  Role = "worker"  // has the socket, the database and the schedule
	RoleSingle  Role = "single"  // the only process, without a watchdog
)

// Process is a process of a [Fake]. Its methods are safe for concurrent use; commands return
// when the process has executed them.
type Process struct {
	fake    *Fake
	id      fakeosqueryd.Identity
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

// PID returns the process id.
func (p *Process) PID() int { return p.id.PID }

// Role returns the part of the process.
func (p *Process) Role() Role { return Role(p.id.Role) }

// WatcherPID returns the process id of a worker's watcher, or 0.
func (p *Process) WatcherPID() int { return p.id.Watcher }

// Run returns the number of the run of the instance, from 1.
func (p *Process) Run() int { return p.id.Run }

// Socket returns the path of the extension socket.
func (p *Process) Socket() string { return p.id.Socket }

// Done returns a channel that is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// String describes the process.
func (p *Process) String() string {
	return fmt.Sprintf("%s pid %d (run %d, worker %d): %s", p.id.Role, p.id.PID, p.id.Run, p.id.Worker, strings.Join(p.id.Args, " "))
}

// Reached reports whether the process has reached a phase.
func (p *Process) Reached(ph Phase) bool {
	p.fake.mu.Lock()
	defer p.fake.mu.Unlock()
	return slices.Contains(p.reached, ph)
}

// Passed reports whether the process has passed a phase and its rules.
func (p *Process) Passed(ph Phase) bool {
	p.fake.mu.Lock()
	defer p.fake.mu.Unlock()
	return slices.Contains(p.phases, ph)
}

// Wait waits until the process has ended.
func (p *Process) Wait(ctx context.Context) error {
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the end of pid %d: %w", p.id.PID, ctx.Err())
	}
}

// Watcher returns the live watcher of a worker, if any.
func (p *Process) Watcher() (*Process, bool) {
	p.fake.mu.Lock()
	defer p.fake.mu.Unlock()
	w := p.fake.watcherOf(p.id)
	return w, w != nil
}

// Do executes an action. Exit and Kill return when the process has ended, WatchdogMemory and
// WatchdogCPU, of a worker or its watcher, when the worker has.
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

// Emit sends result lines to the logger plugin. If it refuses one, the process exits with 78,
// as osqueryd does.
func (p *Process) Emit(ctx context.Context, lines ...string) error {
	_, err := p.ask(ctx, &message{Cmd: cmdEmit, Lines: lines})
	return err
}

// EmitStatus writes status lines to stderr and sends all pending ones to the logger plugin.
func (p *Process) EmitStatus(ctx context.Context, lines ...string) error {
	_, err := p.ask(ctx, &message{Cmd: cmdStatus, Lines: lines})
	return err
}

// RunSchedule runs the named scheduled queries, or all, and logs their results.
func (p *Process) RunSchedule(ctx context.Context, names ...string) error {
	_, err := p.ask(ctx, &message{Cmd: cmdSchedule, Names: names})
	return err
}

// RunDistributed reads and runs distributed queries and writes their results.
func (p *Process) RunDistributed(ctx context.Context) error {
	_, err := p.ask(ctx, &message{Cmd: cmdDistributed})
	return err
}

// RefreshConfig reads the config.
func (p *Process) RefreshConfig(ctx context.Context) error {
	_, err := p.ask(ctx, &message{Cmd: cmdRefresh})
	return err
}

// Stats returns the counts of a worker.
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

// Stats are the counts of a worker since its start.
type Stats struct {
	Connections       int64 // open now
	ConnectionsTotal  int64
	Pings             int64
	Calls             int64
	Queries           int64
	MaxQueries        int64 // most at the same time
	SecondDatabases   int64 // queries that found the database busy
	Registrations     int64
	Refusals          int64
	Deregistrations   int64
	Checks            int64 // periodic pings that an extension answered
	GoneAway          int64 // extensions dropped after a failed ping
	ExtensionCalls    int64
	ExtensionFailures int64
	Scheduled         int64
	ResultLines       int64
	DistributedReads  int64
	DistributedWrites int64
	Refreshes         int64
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
