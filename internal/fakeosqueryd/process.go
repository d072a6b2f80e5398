package fakeosqueryd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Process is one fake process. It uses no globals, so that many can live in
// one real process (see Serve).
type Process struct {
	id     Identity
	argv0  string // absolute
	conf   Config
	flags  *flagSet
	log    *logger
	stdout io.Writer
	stderr io.Writer
	start  time.Time

	gate       gate
	ignoreTerm atomic.Bool
	zeroUUID   atomic.Bool
	noSocket   atomic.Bool
	limitHit   atomic.Bool // SIGUSR1 came: a resource limit was hit

	// die ends the process at once, without any cleaning up: for real, or by
	// closing dead when the process is played by goroutines.
	die      func(p *Process, code, signal int)
	dead     <-chan struct{}
	deadCtx  context.Context // is done when dead is closed
	markDead func()

	mu        sync.Mutex
	stop      chan struct{} // closed when asked to stop
	requested bool
	code      int

	role runner // set before run
}

// runner is what a role does after the common start.
type runner interface{ run() int }

// New makes a process, which Parse and then Run or Serve bring to life.
func New(c Config) *Process {
	p := &Process{
		conf: c, argv0: absolute(c.Args[0]),
		flags: newFlagSet(), log: newLogger(c.Stderr), stdout: c.Stdout, stderr: c.Stderr, start: time.Now(),
		stop: make(chan struct{}),
	}
	p.deadCtx, p.markDead = context.WithCancel(context.Background())
	p.dead = p.deadCtx.Done()
	p.gate.init()
	p.id = Identity{PID: os.Getpid(), Args: c.Args, Run: 1, Worker: 1}
	return p
}

// Parse reads argv. done is true when there is nothing to run, as with --version. workerOf is the value of OSQUERY_WORKER,
// which alone makes the process a worker; single plays without a watchdog whatever argv says.
func (p *Process) Parse(workerOf string, single bool) (code int, done bool) {
	args := p.id.Args
	p.flags.forVersion(p.conf.version())
	for _, a := range args[1:] {
		switch a {
		case "--help", "-help", "--h", "-h":
			p.flags.printUsage(p.stdout, p.conf.version())
			return 0, true
		}
	}
	parsed := p.flags.parseArgs(args, p.stderr)
	switch {
	case parsed.died != "": // before gflags looks at the next two
	case p.flags.bool("helpxml"):
		p.flags.printXML(p.stdout, args[0])
		return 1, true
	case p.flags.bool("version"):
		fmt.Fprintf(p.stdout, "%s version %s\n", filepath.Base(args[0]), p.conf.version())
		return 0, true
	}
	if fatal := parsed.fatal(); fatal != "" {
		fmt.Fprintln(p.stderr, fatal)
		return 1, true
	}
	if isShell(args) && !single {
		return 0, true // as the shell does that has nothing to read
	}
	p.identify(workerOf, single)
	p.log.configure(p.flags)
	if p.conf.Director != nil {
		p.conf.Director.Identified(p)
	}
	return 0, false
}

// isShell: the last of these words decides, wherever it stands; --S=true is
// none of them.
func isShell(args []string) bool {
	shell := false
	for _, a := range args[1:] {
		switch a {
		case "-S", "--S":
			shell = true
		case "-D", "--D":
			shell = false
		}
	}
	return shell
}

// identify decides the role.
func (p *Process) identify(workerOf string, single bool) {
	p.id.Socket, p.id.DB = p.flags.str("extensions_socket"), p.flags.str("database_path")
	check := p.flags.bool("config_check") || p.flags.bool("config_dump")
	switch {
	case workerOf != "":
		p.id.Role = RoleWorker
		p.id.Watcher, _ = strconv.Atoi(workerOf)
	case single || p.flags.bool("disable_watchdog") || check:
		p.id.Role = RoleSingle
	default:
		p.id.Role = RoleWatcher
	}
	if p.id.Role == RoleWatcher {
		p.role = newWatcher(p)
	} else {
		p.role = newWorker(p)
	}
}

// Run plays the process for real: with signals, and until it exits or dies.
func (p *Process) Run() int {
	p.die = dieForReal
	stopSignals := p.handleSignals()
	defer stopSignals()
	return p.live()
}

// Serve plays a process that was parsed as a single one, by goroutines of the calling process. The end of ctx is a SIGTERM.
// It returns when all of its goroutines have ended.
func (p *Process) Serve(ctx context.Context) int {
	var died death
	p.die = died.set
	undo := context.AfterFunc(ctx, func() {
		if !p.ignoreTerm.Load() {
			p.requestStop(0)
		}
	})
	defer undo()
	w, _ := p.role.(*worker)
	ended := make(chan struct{})
	abandoned := make(chan struct{})
	go func() {
		defer close(abandoned)
		select {
		case <-p.dead:
			w.server.abandon()
		case <-ended:
		}
	}()
	code := p.live()
	close(ended)
	<-abandoned
	p.markDead()
	if c, dead := died.get(); dead {
		return c
	}
	return code
}

func (p *Process) live() int {
	p.phase(PhaseStart)
	code := p.role.run()
	p.phase(PhaseStopped)
	return code
}

// requestStop asks for a clean end; the first code counts.
func (p *Process) requestStop(code int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.requested {
		return
	}
	p.requested, p.code = true, code
	close(p.stop)
}

// fail logs why and asks for an end.
func (p *Process) fail(code int, format string, args ...any) {
	p.log.error("shutdown.cpp:86", format, args...)
	p.requestStop(code)
}

func (p *Process) stopping() bool {
	select {
	case <-p.stop:
		return true
	case <-p.dead:
		return true
	default:
		return false
	}
}

func (p *Process) exitCode() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.code
}

func (p *Process) setExitCode(code int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.code = code
}

// sleep waits, and is false when the process was asked to stop meanwhile.
func (p *Process) sleep(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-p.stop:
	case <-p.dead:
	}
	return false
}

// death remembers the first end without cleaning up.
type death struct {
	mu   sync.Mutex
	code int
	dead bool
}

func (d *death) set(p *Process, code, _ int) {
	d.mu.Lock()
	if !d.dead {
		d.code, d.dead = code, true
	}
	d.mu.Unlock()
	p.markDead()
}

func (d *death) get() (code int, dead bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.code, d.dead
}

// leave is os.Exit without its hooks: under the race detector those take a
// second, which would make every fake a slow one to stop.
func leave(code int) { syscall.Exit(code) }

// dieForReal never returns.
func dieForReal(_ *Process, code, signal int) {
	if signal != 0 {
		killSelf(signal)
	}
	leave(code)
}

func absolute(argv0 string) string {
	if filepath.IsAbs(argv0) {
		return argv0
	}
	if abs, err := filepath.Abs(argv0); err == nil {
		return abs
	}
	return argv0
}

// gateMode is what hangs.
type gateMode int

const (
	gateOpen  gateMode = iota
	gateCalls          // everything but pings
	gateAll
)

// gate holds callers back while the fake hangs.
type gate struct {
	mu      sync.Mutex
	mode    gateMode
	changed chan struct{}
}

func (g *gate) init() { g.changed = make(chan struct{}) }

func (g *gate) set(m gateMode) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.mode = m
	close(g.changed)
	g.changed = make(chan struct{})
}

// wait blocks while the mode is at least as strict as from. Only the end of the
// process ends the wait otherwise: a hung process is not stopped gently.
func (g *gate) wait(from gateMode, dead <-chan struct{}) {
	for {
		g.mu.Lock()
		mode, changed := g.mode, g.changed
		g.mu.Unlock()
		if mode < from {
			return
		}
		select {
		case <-changed:
		case <-dead:
			return
		}
	}
}

// Role is the part that a process plays, as osquerydtest has it.
type Role string

// The roles.
const (
	RoleWatcher Role = "watcher"
	RoleWorker  Role = "worker"
	RoleSingle  Role = "single"
)

// Identity is what is known about a fake process.
type Identity struct {
	PID     int      `json:"pid"`
	Watcher int      `json:"watcher,omitempty"` // pid, for a worker
	Role    Role     `json:"role"`
	Args    []string `json:"args"`
	Socket  string   `json:"socket,omitempty"`
	DB      string   `json:"db,omitempty"`
	Run     int      `json:"run,omitempty"`    // of the instance, from 1
	Worker  int      `json:"worker,omitempty"` // of the run, from 1
}

// Key is equal for all runs of one instance.
func (i Identity) Key() string {
	if i.DB != "" {
		return i.DB
	}
	if i.Socket != "" {
		return i.Socket
	}
	return strings.Join(slices.Clone(i.Args), " ")
}

// pidfile is a locked file with the pid of the watcher (or single process).
type pidfile struct {
	file *os.File
}

// takePidfile returns nil after it has logged why the start must fail.
func takePidfile(p *Process) (*pidfile, bool) {
	if p.flags.bool("ephemeral") {
		return &pidfile{}, true
	}
	path := p.flags.str("pidfile")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		reason := "IOError"
		if errors.Is(err, fs.ErrPermission) {
			reason = "AccessDenied"
		}
		return nil, refusePidfile(p, reason)
	}
	if tryLock(f) != nil {
		_ = f.Close()
		return nil, refusePidfile(p, "Busy")
	}
	_ = f.Truncate(0)
	if _, err := f.WriteAt([]byte(strconv.Itoa(p.id.PID)), 0); err != nil {
		_ = f.Close()
		return nil, refusePidfile(p, "IOError")
	}
	return &pidfile{file: f}, true
}

func refusePidfile(p *Process, reason string) bool {
	p.log.error("init.cpp:511", "osqueryd Pidfile check failed: Pidfile::Error::%s", reason)
	return false
}

// release removes the file, as a clean end does; a sudden death leaves it.
func (f *pidfile) release(p *Process) {
	if f == nil || f.file == nil {
		return
	}
	if !isClosed(p.dead) {
		_ = os.Remove(f.file.Name())
	}
	_ = f.file.Close()
}
