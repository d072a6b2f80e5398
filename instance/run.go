package instance

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"github.com/osqvisor/osqvisor/internal/glog"
	"github.com/osqvisor/osqvisor/internal/guard"
	"github.com/osqvisor/osqvisor/internal/process"
	"github.com/osqvisor/osqvisor/stats"
)

// Reasons for which we end a run ourselves.
var (
	errStartTimeout = errors.New("osqueryd was not ready in time")
	errUnhealthy    = errors.New("osqueryd is unhealthy")
	errLeftover     = errors.New("an earlier osqueryd of this instance would not end")
	errDirectory    = errors.New("the instance's directory cannot be used")
	errFlags        = errors.New("the flags cannot be used")
	errExited       = errors.New("osqueryd ended")
	errWorkerLost   = errors.New("osqueryd's worker ended")
	errCrashLoop    = errors.New("osqueryd's workers die before they are ready")
	errPanic        = errors.New("code of the host panicked")
)

// run is one lifetime of an osqueryd. Its methods are called by the goroutine
// that called Run and by no other, except where they say so.
type run struct {
	in      *Instance
	o       *options
	id      string
	log     *slog.Logger
	started time.Time
	phase   stats.Phase

	proc     *process.Process
	spawned  time.Time
	words    *words
	session  *session // guarded by in.mu against readers elsewhere
	health   health
	oomSeen  uint64 // what the kernel had killed for memory, at the last look
	sessions int

	release      func()                       // gives the start's place back; nil when it has none
	stopShipping func() (ended chan struct{}) // of this run; nil when it has none
	diskHangs    bool                         // nobody waits for the directory's file system any more
	madeDirs     bool                         // prepare came to the sockets
	entered      bool                         // the directory is held
	tablesHave   uint64                       // the value of in.tablesAsked that osqueryd has the tables of

	met        time.Time // when the current worker was registered with
	lastPID    int       // of the worker that was lost
	begun      bool      // the newest worker has activated our logger
	workerless bool      // the worker is gone, and no other was registered with yet
	quick      int       // workers that died soon after they were registered with

	asked activations // guarded by in.mu
	ready bool        // guarded by in.mu
	told  bool        // ready, and the events say so; guarded by in.mu
	over  bool        // no more ready; guarded by in.mu
}

// Run is one lifetime of osqueryd: it returns when osqueryd is gone and every
// process, goroutine, socket and file of the run with it. It returns nil when ctx ended,
// however osqueryd took it, and then the observers have its events or had the time of
// WithObserverTimeout; and an *ExitError when the run ended by itself. A file system
// that does not answer is waited for as WithDiskTimeout and WithKillTimeout have it. A
// second call at the same time fails with ErrRunning; after it returned, it may
// be called again. After Close it fails with ErrClosed.
func (in *Instance) Run(ctx context.Context) error {
	if err := in.begin(); err != nil {
		return err
	}
	defer in.end()
	r := in.newRun()
	in.setCurrent(r)
	defer in.setCurrent(nil)
	err := r.live(ctx)
	err = r.finish(ctx, err)
	if ctx.Err() != nil { // a new start waits for nobody
		in.Settle(ctx)
	}
	return err
}

func (in *Instance) newRun() *run {
	id := newRunID()
	log := in.log.With("run", id)
	r := &run{
		in: in, o: in.o, id: id, log: log, started: time.Now(), phase: stats.PhasePrepare,
		words: newWords(in, log, glog.NewTail(in.o.stderrLines, 64<<10)),
	}
	r.words.watcher = func(thread uint64) bool { return hasThread(in.PID(), thread) }
	return r
}

// activations counts what osqueryd's workers have asked our plugins for at their start.
type activations struct{ config, logger int }

// noteActivation is called by a call of osqueryd's, before it is answered.
func (in *Instance) noteActivation(what string) {
	in.mu.Lock()
	defer in.mu.Unlock()
	r := in.current
	if r == nil {
		return
	}
	switch what {
	case "config":
		r.words.mistrust()
		r.asked.config++
	case "logger":
		r.asked.logger++
		in.wake()
	}
}

// newRunID gives 8 random bytes in hex: unique enough to tell runs apart for ever.
func newRunID() string {
	b := make([]byte, 8)
	_, _ = rand.Read(b) // it never fails, says its documentation
	return hex.EncodeToString(b)
}

// live takes the run through its phases and returns why it left the last one.
func (r *run) live(ctx context.Context) error {
	r.in.emit(stats.RunStarting{Head: r.in.head(), Binary: r.o.binary, Version: r.in.Binary().Version})
	if err := r.gate(ctx); err != nil {
		return err
	}
	defer r.releaseGate()
	r.in.queries.Suspend() // from here on a query waits for ready instead of failing
	for _, step := range []struct {
		phase stats.Phase
		do    func(context.Context) error
	}{
		{stats.PhasePrepare, r.prepare},
		{stats.PhaseSpawn, r.spawn},
		{stats.PhaseConnect, r.start},
		{stats.PhaseServe, r.serve},
	} {
		r.phase = step.phase
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := step.do(ctx); err != nil {
			return err
		}
	}
	return nil
}

// gate waits for this start's turn, when somebody counts them.
func (r *run) gate(ctx context.Context) error {
	if r.o.gate == nil {
		return ctx.Err()
	}
	release, err := r.in.askGate(ctx)
	if err != nil {
		return err
	}
	r.release = sync.OnceFunc(func() {
		if !guard.Within(r.o.killTimeout, func() { r.in.callRelease(release) }) {
			r.log.Error("the host's gate does not take a place back")
		}
	})
	return nil
}

// askGate waits for the host's gate, and a while longer when ctx has ended: then the gate
// is left to itself, and the place that it may give goes back.
func (in *Instance) askGate(ctx context.Context) (release func(), err error) {
	var got func()
	err = guard.Call(ctx, in.o.killTimeout, func() (err error) {
		got, err = in.callGate(ctx)
		return err
	}, func() { in.callRelease(got) })
	if errors.Is(err, guard.ErrHangs) {
		in.log.Error("the host's gate does not return although its context ended")
	}
	if err != nil {
		return nil, err
	}
	return got, nil
}

// callGate calls the host's gate and contains it.
func (in *Instance) callGate(ctx context.Context) (release func(), err error) {
	defer func() {
		if v := recover(); v != nil {
			in.caughtPanicIn("gate", v, debug.Stack())
			err = fmt.Errorf("%w: the host's gate: %v", errPanic, v)
		}
	}()
	if release, err = in.o.gate(ctx); release == nil {
		release = func() {}
	}
	return release, err
}

// callRelease calls the host's function and contains it.
func (in *Instance) callRelease(release func()) {
	defer func() {
		if v := recover(); v != nil {
			in.caughtPanicIn("gate", v, debug.Stack())
		}
	}()
	release()
}

func (r *run) releaseGate() {
	if r.release != nil {
		r.release()
	}
}

// finish stops whatever is left, says why the run ended and gives Run's result.
func (r *run) finish(ctx context.Context, err error) error {
	asked := ctx.Err() != nil // decided by our own context, never by an error
	phase := r.phase
	exit := r.stop(asked)
	if r.workerless {
		r.tellKill(r.lastPID)
	}
	if asked {
		r.in.ext.OsquerydGone(false)
		r.in.emit(stats.RunEnded{
			Head: r.in.head(), Phase: phase, Cause: stats.CauseRequested, PID: r.pid(),
			Code: exit.code, Signal: exit.signal, Uptime: exit.uptime,
		})
		return nil
	}
	e := r.explain(phase, err, exit)
	r.in.ext.OsquerydGone(configMayBe(e))
	r.in.emit(stats.RunEnded{
		Head: r.in.head(), Phase: phase, Cause: e.Cause, PID: r.pid(), Code: e.Code, Signal: e.Signal,
		Uptime: e.Uptime, Err: e, Stderr: e.Stderr, Hint: e.Hint,
	})
	return e
}

// exit is how osqueryd left.
type exit struct {
	code   int
	signal string
	uptime time.Duration
	ours   bool // we ended it
}

// explain turns what is known into one cause: our own reason if we ended it,
// else osqueryd's own words, else how it left.
func (r *run) explain(phase stats.Phase, err error, x exit) *ExitError {
	e := &ExitError{
		Instance: r.o.id, Run: r.id, Phase: phase, Code: x.code, Signal: x.signal,
		Uptime: x.uptime, Stderr: r.words.tail.Lines(), Cause: stats.CauseUnknown,
	}
	if !errors.Is(err, errExited) {
		e.Err = err
		e.Cause = causeFromError(err)
	}
	if e.Cause == stats.CauseUnknown || e.Cause == stats.CauseStartTimeout {
		e.Cause = r.causeOfExit(e.Cause, x)
	}
	e.Said, e.Hint = r.said(x), hintAfter(e.Cause, x.code)
	return e
}

func (r *run) causeOfExit(otherwise stats.Cause, x exit) stats.Cause {
	said, _ := r.words.cause()
	switch {
	case r.proc == nil || x.ours || otherwise != stats.CauseUnknown:
		if said != stats.CauseUnknown {
			return said
		}
		return otherwise
	case killed(x): // what it said before did not end it
		if x.signal == "SIGKILL" && r.noteOOM() {
			return stats.CauseOutOfMemory
		}
		return stats.CauseSignal
	case said != stats.CauseUnknown:
		return said
	}
	if seen := r.circumstances(x); seen != stats.CauseUnknown {
		return seen
	}
	if x.signal != "" {
		return stats.CauseSignal
	}
	return stats.CauseExit
}

// said picks the line of osqueryd's that tells best why it ended. Who was ended by somebody
// else said nothing of it.
func (r *run) said(x exit) string {
	_, line := r.words.cause()
	if line == "" && !killed(x) {
		line = r.words.lastTrouble()
	}
	return line
}

// killed reports whether a signal of somebody else's ended osqueryd.
func killed(x exit) bool { return x.signal != "" && !crash(x.signal) && !x.ours }

// noteOOM says whether the kernel killed for want of memory since the last look. That it
// was of ours is likely, no more: it counts for all of our control group.
func (r *run) noteOOM() bool {
	before := r.oomSeen
	r.oomSeen = r.o.oomKills()
	return r.oomSeen > before
}

// configMayBe reports whether the config may be to blame for the end of a run: osqueryd crashed,
// gave up, hung or took too much memory. A signal from outside, a busy database or a full disk is
// nothing that a config does.
func configMayBe(e *ExitError) bool {
	switch e.Cause {
	case stats.CauseExit:
		return e.Code != 0
	case stats.CauseSignal:
		return crash(e.Signal)
	case stats.CauseOutOfMemory, stats.CauseCrashLoop, stats.CauseUnhealthy, stats.CauseStartTimeout, stats.CauseLoggerFailed,
		stats.CausePluginMissing:
		return true
	default:
		return false
	}
}

// crash tells the signals that a program ends itself by.
func crash(signal string) bool {
	return signal == "SIGABRT" || signal == "SIGSEGV" || signal == "SIGBUS" || signal == "SIGFPE" || signal == "SIGILL"
}

func (r *run) pid() int {
	if r.proc == nil {
		return 0
	}
	return r.proc.PID()
}
