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

// ErrProcessGone is returned for a command to a process that has ended.
var ErrProcessGone = errors.New("the fake process has ended")

// Role is the part that a fake process plays.
type Role string

// The roles.
const (
	// RoleWatcher keeps a worker alive (the watchdog is on).
	RoleWatcher Role = "watcher"
	// RoleWorker owns the socket, the database and the schedule.
	RoleWorker Role = "worker"
	// RoleSingle is the only process of an instance whose watchdog is off.
	RoleSingle Role = "single"
)

// Process is a fake process that was alive when it was asked for. Its methods
// are safe for concurrent use. The commands return when the process has done
// what was asked, so that a test needs no sleeps.
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

// Role returns the part that the process plays.
func (p *Process) Role() Role { return Role(p.id.Role) }

// WatcherPID returns the pid of a worker's watcher, 0 without one.
func (p *Process) WatcherPID() int { return p.id.Watcher }

// Run returns the number of the run among those of its instance, from 1.
func (p *Process) Run() int { return p.id.Run }

// Worker returns the number of the worker among those of its run, from 1.
func (p *Process) Worker() int { return p.id.Worker }

// Args returns argv.
func (p *Process) Args() []string { return slices.Clone(p.id.Args) }

// Socket returns the path of the extension manager's socket.
func (p *Process) Socket() string { return p.id.Socket }

// Done returns a channel that is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// String describes the process for messages.
func (p *Process) String() string {
	return fmt.Sprintf("%s pid %d (run %d, worker %d): %s", p.id.Role, p.id.PID, p.id.Run, p.id.Worker, strings.Join(p.id.Args, " "))
}

// Reached reports whether the process has reached a phase. The phase's rules
// may still hold it there.
func (p *Process) Reached(ph Phase) bool {
	p.fake.mu.Lock()
	defer p.fake.mu.Unlock()
	return slices.Contains(p.reached, ph)
}

// Passed reports whether the process has passed a phase, with all that its
// rules do there.
func (p *Process) Passed(ph Phase) bool {
	p.fake.mu.Lock()
	defer p.fake.mu.Unlock()
	return slices.Contains(p.phases, ph)
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

// Stats is what a worker has counted since its start.
type Stats struct {
	Connections       int64 `json:"connections"`        // open now
	ConnectionsTotal  int64 `json:"connections_total"`  // ever accepted
	Pings             int64 `json:"pings"`              // received
	Calls             int64 `json:"calls"`              // registry calls received
	Queries           int64 `json:"queries"`            // received
	MaxQueries        int64 `json:"max_queries"`        // most at the same time
	SecondDatabases   int64 `json:"second_databases"`   // queries that found the database busy
	Registrations     int64 `json:"registrations"`      // accepted
	Refusals          int64 `json:"refusals"`           // registrations refused
	Deregistrations   int64 `json:"deregistrations"`    //
	Checks            int64 `json:"checks"`             // periodic pings that an extension answered
	GoneAway          int64 `json:"gone_away"`          // extensions dropped after a failed ping
	ExtensionCalls    int64 `json:"extension_calls"`    // made to extensions
	ExtensionFailures int64 `json:"extension_failures"` // of those
	Scheduled         int64 `json:"scheduled"`          // scheduled queries run
	ResultLines       int64 `json:"result_lines"`       // given to the logger
	DistributedReads  int64 `json:"distributed_reads"`  //
	DistributedWrites int64 `json:"distributed_writes"` //
	Refreshes         int64 `json:"refreshes"`          // config requests
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
