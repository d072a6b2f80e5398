package osquerydtest

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// process is one fake process. It uses no globals, so that many can live in
// one real process (see Serve).
type process struct {
	id     identity
	argv0  string // absolute
	dir    string // where the script and the control socket are
	script Script
	flags  *flagSet
	log    *logger
	stdout io.Writer
	stderr io.Writer
	rules  *ruleEngine
	link   *link // to the Fake; nil when it is gone
	start  time.Time

	gate       gate
	ignoreTerm atomic.Bool
	zeroUUID   atomic.Bool
	noSocket   atomic.Bool
	limitHit   atomic.Bool // SIGUSR1 came: a resource limit was hit

	// die ends the process at once, without any cleaning up: for real, or by
	// closing dead when the process is played by goroutines.
	die      func(p *process, code, signal int)
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
type runner interface {
	run() int
	// command does what only this role can; ok is false when it cannot.
	command(m *message) (result *message, ok bool)
	// act does a Kind that only this role can.
	act(a Action) error
}

func newProcess(args []string, stdout, stderr io.Writer) *process {
	p := &process{
		flags: newFlagSet(), log: newLogger(stderr), stdout: stdout, stderr: stderr, start: time.Now(),
		stop: make(chan struct{}),
	}
	p.deadCtx, p.markDead = context.WithCancel(context.Background())
	p.dead = p.deadCtx.Done()
	p.gate.init()
	p.id = identity{PID: os.Getpid(), Args: args, Run: 1, Worker: 1}
	return p
}

// prepare parses argv and reads the script. done is true when there is nothing
// to run, as with --version.
func (p *process) prepare(workerOf string) (code int, done bool) {
	args := p.id.Args
	p.argv0 = absolute(args[0])
	var err error
	if p.script, p.dir, err = loadScript(p.argv0); err != nil {
		fmt.Fprintln(p.stderr, err)
		return 1, true
	}
	return p.parse(workerOf, false)
}

// parse reads argv; single plays without a watchdog whatever argv says.
func (p *process) parse(workerOf string, single bool) (code int, done bool) {
	args := p.id.Args
	p.flags.forVersion(p.script.version())
	for _, a := range args[1:] {
		switch a {
		case "--help", "-help", "--h", "-h":
			p.flags.printUsage(p.stdout, p.script.version())
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
		fmt.Fprintf(p.stdout, "%s version %s\n", filepath.Base(args[0]), p.script.version())
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
	p.rules = newRuleEngine(p)
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

// identify decides the role and says hello to the Fake.
func (p *process) identify(workerOf string, single bool) {
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
	if p.link == nil && p.dir != "" {
		p.link = dialFake(p)
	}
}

func (p *process) run() int {
	p.link.serve(p)
	p.phase(PhaseStart)
	code := p.role.run()
	p.phase(PhaseStopped)
	return code
}

func (p *process) close() { p.link.close() }

// phase runs the rules of a phase, and tells the Fake when it is passed; before
// that, too, when rules act in between.
func (p *process) phase(ph Phase) {
	if due := p.rules.due(ph, ""); len(due) > 0 {
		p.link.send(&message{Phase: ph, Reached: true})
		p.actAll(due)
	}
	p.link.send(&message{Phase: ph})
}

// requestStop asks for a clean end; the first code counts.
func (p *process) requestStop(code int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.requested {
		return
	}
	p.requested, p.code = true, code
	close(p.stop)
}

// fail logs why and asks for an end.
func (p *process) fail(code int, format string, args ...any) {
	p.log.error("shutdown.cpp:86", format, args...)
	p.requestStop(code)
}

func (p *process) stopping() bool {
	select {
	case <-p.stop:
		return true
	case <-p.dead:
		return true
	default:
		return false
	}
}

func (p *process) exitCode() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.code
}

func (p *process) setExitCode(code int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.code = code
}

// sleep waits, and is false when the process was asked to stop meanwhile.
func (p *process) sleep(d time.Duration) bool {
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

// dieForReal never returns.
func dieForReal(_ *process, code, signal int) {
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
