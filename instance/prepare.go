package instance

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/osqvisor/osqvisor/internal/guard"
	"github.com/osqvisor/osqvisor/internal/process"
	"github.com/osqvisor/osqvisor/stats"
)

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
	bounded, cancel := context.WithTimeoutCause(ctx, r.o.diskTimeout+3*r.o.binaryTimeout, errBinarySlow)
	defer cancel()
	return guard.Call(bounded, r.o.killTimeout, func() error { return r.checkBinary(bounded) }, nil)
}

// reclaim ends what a host that was killed left behind, before the database is touched.
func (r *run) reclaim(ctx context.Context) error {
	began := time.Now()
	killed, err := process.Reclaim(ctx, r.in.paths.lease, process.ReclaimOptions{Wait: r.o.killTimeout, Logger: r.log})
	if len(killed) > 0 {
		var pids []int
		for _, id := range killed {
			pids = append(pids, id.PID)
		}
		r.in.emit(stats.LeftoverCleaned{Head: r.in.head(), PIDs: pids, Took: time.Since(began)})
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
	if err := r.o.askFlags(ctx, b); err != nil {
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
		RunID: r.id, Output: r.words.take,
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
	bounded, cancel := context.WithTimeoutCause(ctx, r.o.diskTimeout, errDiskHangs)
	defer cancel()
	var proc *process.Process
	err := guard.Call(bounded, r.o.killTimeout, func() (err error) {
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
