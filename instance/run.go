package instance

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
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
// that called Run and by no other, except where noted.
type run struct {
	in      *Instance
	o       *options
	id      string
	log     *slog.Logger
	started time.Time
	phase   stats.Phase

	proc     *process.Process
	spawned  time.Time
	stderr   *stderrParser
	session  *session // guarded by in.mu against readers elsewhere
	health   health
	oomSeen  uint64 // what the kernel had killed for memory, at the last look
	sessions int

	release      func()                       // releases the start's place; nil when it has none
	stopShipping func() (ended chan struct{}) // of this run; nil when it has none
	diskHangs    bool                         // nobody waits for the directory's file system any more
	madeDirs     bool                         // prepare came to the sockets
	entered      bool                         // the directory is held
	tablesHave   uint64                       // the value of in.tablesSet that osqueryd has the tables of

	met        time.Time // when the current worker was registered with
	lastPID    int       // of the worker that was lost
	begun      bool      // the newest worker has activated our logger
	workerless bool      // the worker is gone, and no other was registered with yet
	quick      int       // workers that died soon after they were registered with

	stopAsked atomic.Pointer[time.Time] // when Run's context ended
	stopBegan time.Time                 // from when Timeouts.Stop counts

	activated activations // guarded by in.mu
	ready     bool        // guarded by in.mu
	announced bool        // ready, and an event reported it; guarded by in.mu
	over      bool        // no more ready; guarded by in.mu
}

// Run is one lifetime of osqueryd: it returns when every process, goroutine, socket and file of the
// run is gone. It returns nil when ctx ended, however osqueryd exited, within Timeouts.Stop; and
// an *ExitError when the run ended by itself. It may be called again after it returned; at the
// same time it fails with ErrRunning, after Close with ErrClosed, and for an instance of a Runner
// with ErrSupervised.
func (in *Instance) Run(ctx context.Context) error {
	if in.supervised() {
		return fmt.Errorf("instance %q: %w", in.o.id, ErrSupervised)
	}
	return in.runOnce(ctx)
}

func (in *Instance) runOnce(ctx context.Context) error {
	if err := in.begin(); err != nil {
		return err
	}
	defer in.end()
	r := in.newRun()
	in.setCurrent(r)
	defer in.setCurrent(nil)
	unwatch := context.AfterFunc(ctx, func() {
		now := time.Now()
		r.stopAsked.Store(&now)
	})
	defer unwatch()
	err := r.live(ctx)
	err = r.finish(ctx, err)
	if ctx.Err() != nil { // a new start waits for nobody
		in.setStopBy(r.stopBegan.Add(in.live.Load().timeouts.stop()))
		in.settleWithin(ctx, min(in.live.Load().timeouts.Observers, r.left(stopObservers)/settleWaits))
	}
	return err
}

func (in *Instance) setStopBy(t time.Time) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.stopBy = t
}

func (in *Instance) newRun() *run {
	id := newRunID()
	log := in.log.With("run", id)
	r := &run{
		in: in, o: in.o, id: id, log: log, started: time.Now(), phase: stats.PhasePrepare,
		stderr: newStderrParser(in, log, glog.NewTail(in.live.Load().diagnostics.StderrLines, 64<<10)),
	}
	r.stderr.watcher = func(thread uint64) bool { return hasThread(in.PID(), thread) }
	return r
}

// activations counts how often osqueryd's workers have activated our plugins.
type activations struct{ config, logger int }

// noteActivation is called by a call of osqueryd's, before it is answered.
func (in *Instance) noteActivation(what string) {
	in.o.activated(what)
	in.mu.Lock()
	defer in.mu.Unlock()
	r := in.current
	if r == nil {
		return
	}
	switch what {
	case "config":
		r.stderr.distrust()
		r.activated.config++
	case "logger":
		r.activated.logger++
		in.wake()
	}
}

// newRunID returns 8 random bytes in hex: unique enough to distinguish runs for ever.
func newRunID() string {
	b := make([]byte, 8)
	_, _ = rand.Read(b) // it never fails
	return hex.EncodeToString(b)
}

// live goes through the run's phases and returns why the last one ended.
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
	if r.o.settings.Gate == nil {
		return ctx.Err()
	}
	release, err := r.in.waitGate(ctx)
	if err != nil {
		return err
	}
	r.release = sync.OnceFunc(func() {
		if !guard.Within(r.in.live.Load().timeouts.giveUp(), func() { r.in.callRelease(release) }) {
			r.log.Error("the host's gate does not take a place back")
		}
	})
	return nil
}

// waitGate waits for the host's gate, and a while longer when ctx has ended: then the gate
// is left behind, and a place that it returns later is released.
func (in *Instance) waitGate(ctx context.Context) (release func(), err error) {
	var got func()
	err = guard.Call(ctx, in.live.Load().timeouts.giveUp(), func() (err error) {
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
	if release, err = in.o.settings.Gate(ctx); release == nil {
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

// finish stops whatever is left and returns Run's result.
func (r *run) finish(ctx context.Context, err error) error {
	asked := ctx.Err() != nil // decided by our own context, never by an error
	phase := r.phase
	exit := r.stop(asked)
	if r.workerless {
		r.announceKill(r.lastPID)
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

func (r *run) pid() int {
	if r.proc == nil {
		return 0
	}
	return r.proc.PID()
}

// prepare makes everything ready for a spawn: the directory is ours alone, no
// process of an earlier host is left, and the binary is the one that was checked.
func (r *run) prepare(ctx context.Context) error {
	if err := r.in.enter(ctx); err != nil {
		return err
	}
	r.entered = true
	r.stopShipping = r.in.shipForRun(ctx)
	if err := r.in.onDisk(ctx, "reading the lease", func() error { return r.reclaim(ctx) }, nil); err != nil {
		return err
	}
	r.madeDirs = true
	if err := r.in.onDisk(ctx, "making directories", r.makeDirectories, nil); err != nil {
		return err
	}
	// The binary may be on another disk, and is executed: nothing else waits for it.
	bounded, cancel := context.WithTimeoutCause(ctx, r.in.live.Load().timeouts.Disk+3*r.in.live.Load().timeouts.Binary, errBinarySlow)
	defer cancel()
	return guard.Call(bounded, r.in.live.Load().timeouts.giveUp(), func() error { return r.checkBinary(bounded) }, nil)
}

// reclaim ends what a host that was killed left behind, before the database is touched.
func (r *run) reclaim(ctx context.Context) error {
	began := time.Now()
	killed, err := process.Reclaim(ctx, r.in.paths.lease, process.ReclaimOptions{Wait: r.in.live.Load().timeouts.giveUp(), Logger: r.log})
	if len(killed) > 0 {
		var pids []int
		for _, id := range killed {
			pids = append(pids, id.PID)
		}
		r.in.emit(stats.LeftoverCleaned{Head: r.in.head(), PIDs: pids, Elapsed: time.Since(began)})
	}
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, process.ErrStillAlive), errors.Is(err, process.ErrNotProven):
		return fmt.Errorf("%w: %w", errLeftover, err)
	default: // the lease cannot be read, or belongs to a host that lives
		return fmt.Errorf("%w: %w", errDirectory, err)
	}
}

func (r *run) makeDirectories() error {
	p := r.in.place()
	if err := makeDir(p.logs, true); err != nil {
		return fmt.Errorf("%w: %w", errDirectory, err)
	}
	removeSockets(p)
	if r.o.socket != "" {
		return nil
	}
	err := p.makeSocketDir() // which may choose another
	r.in.mu.Lock()
	r.in.paths = p
	r.in.mu.Unlock()
	if err != nil {
		return fmt.Errorf("%w: %w", errDirectory, err)
	}
	return nil
}

// checkBinary looks at the file again, because it may have been replaced since.
func (r *run) checkBinary(ctx context.Context) error {
	b := r.in.Binary()
	if b.unchanged() {
		return nil
	}
	b, err := r.o.checkBinary(ctx, b.Path)
	if err != nil {
		return err
	}
	if err := r.o.probeHostFlags(ctx, b); err != nil {
		return fmt.Errorf("%w: %w", errFlags, err)
	}
	r.in.mu.Lock()
	r.in.binary = b
	r.in.mu.Unlock()
	return nil
}

// spawn starts osqueryd and notes it in the lease.
func (r *run) spawn(ctx context.Context) error {
	p, b := r.in.place(), r.in.Binary()
	r.oomSeen = r.o.oomKills()
	proc, err := r.startProcess(ctx, process.Spec{
		Path: b.Path, Args: r.o.argv(p, extensionName, b), Env: environ(r.o.env), Dir: p.dir,
		RunID: r.id, Output: r.stderr.parse,
		NoParentDeathSignal: r.o.noParentDeathSignal, NoTether: r.o.noParentDeathSignal,
	})
	if err != nil {
		return err
	}
	r.spawned = time.Now()
	r.in.mu.Lock()
	r.proc = proc
	r.in.mu.Unlock()
	r.in.emit(stats.ProcessStarted{Head: r.in.head(), PID: proc.PID()})
	return r.in.onDisk(ctx, "writing the lease", func() error {
		if err := r.writeLease(); err != nil {
			return fmt.Errorf("%w: the lease could not be written: %w", errDirectory, err)
		}
		return nil
	}, nil)
}

// startProcess does not wait for a file system that hangs; what starts later is killed.
func (r *run) startProcess(ctx context.Context, spec process.Spec) (*process.Process, error) {
	bounded, cancel := context.WithTimeoutCause(ctx, r.in.live.Load().timeouts.Disk, errDiskHangs)
	defer cancel()
	var proc *process.Process
	err := guard.Call(bounded, r.in.live.Load().timeouts.giveUp(), func() (err error) {
		r.o.diskHook("starting osqueryd")
		proc, err = process.Start(bounded, spec)
		return err
	}, func() { _ = proc.KillGroup() })
	if err != nil {
		return nil, err
	}
	return proc, nil
}

// environ is what the binary gets, in a check and in a run: the host's environment without OSQUERY_*, and own.
func environ(own []string) []string {
	return lastWins(append(process.CleanEnv(os.Environ()), own...))
}

// lastWins keeps the last of several variables of one name, because a program that
// is handed all of them takes the first.
func lastWins(env []string) []string {
	seen := map[string]bool{}
	var out []string
	for _, kv := range slices.Backward(env) {
		name, _, _ := strings.Cut(kv, "=")
		if name != "" && seen[name] {
			continue
		}
		seen[name] = true
		out = append(out, kv)
	}
	slices.Reverse(out)
	return out
}

// writeLease notes who runs, for the next host to find should this one be killed.
func (r *run) writeLease() error {
	host, err := process.Identify(os.Getpid())
	if err != nil {
		return err
	}
	return process.WriteLease(r.in.paths.lease, process.Lease{
		Identity: r.proc.Identity(), PGID: r.proc.PID(), Binary: r.in.Binary().Path, RunID: r.proc.RunID(),
		Socket: r.in.Socket(), Started: r.spawned, Host: host,
	})
}

// shipForRun delivers for as long as a run lasts, its last deliveries included; while
// somebody else does, it waits to take over. The function it returns ends it, and returns
// what is closed at its end.
func (in *Instance) shipForRun(ctx context.Context) (stop func() (ended chan struct{})) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		in.shipInTurn(ctx)
	}()
	return func() chan struct{} {
		cancel()
		return done
	}
}

// shipInTurn is for who holds the directory.
func (in *Instance) shipInTurn(ctx context.Context) {
	select {
	case in.shipping <- struct{}{}:
	case <-ctx.Done():
		return
	}
	defer func() { <-in.shipping }()
	if err := in.ext.Run(ctx); err != nil {
		in.log.Error("logs are no longer delivered", "err", err)
	}
}

// begin lets one run at a time pass, and none after Close.
func (in *Instance) begin() error {
	in.mu.Lock()
	defer in.mu.Unlock()
	switch {
	case in.closed:
		return fmt.Errorf("instance %q: %w", in.o.id, ErrClosed)
	case in.running:
		return fmt.Errorf("instance %q: %w", in.o.id, ErrRunning)
	}
	in.running, in.stopBy = true, time.Time{}
	return nil
}

func (in *Instance) end() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.running = false
}
