package process

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"
)

// Process is a started child together with its process group (on Windows: its job object). All methods are safe for
// concurrent use, may be called from anywhere, at any time and any number of times, and do not block unless they say so.
type Process struct {
	spec    Spec
	claim   claim
	child   *os.Process
	box     *container
	stdout  *reader // of both streams when Spec.Output is set
	stderr  *reader // nil then
	started time.Time

	exited chan struct{}
	exit   Exit // written before exited is closed

	mu     sync.Mutex
	reaped bool // from here on the pid and the group number may become somebody else's
}

// PID returns the pid of the child, also after its end.
func (p *Process) PID() int { return p.claim.leader.PID }

// Identity returns the identity of the child, also after its end.
func (p *Process) Identity() Identity { return p.claim.leader }

// RunID returns the mark the child carries in RunEnv, for the lease.
func (p *Process) RunID() string { return p.claim.runID }

// Exited is closed once: after the child has ended and was reaped, what it left in its group was killed (unless
// SpareGroup), and its output was read to the end or for DrainGrace, whichever came first.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// Exit tells how the child ended. It is the zero Exit until Exited is closed.
func (p *Process) Exit() Exit {
	select {
	case <-p.exited:
		return p.exit
	default:
		return Exit{}
	}
}

// Stdout counts what the child wrote to its standard output so far, and with Spec.Output what it wrote to both streams.
func (p *Process) Stdout() Output { return p.stdout.counts() }

// Stderr counts what the child wrote to its standard error so far. It is zero with Spec.Output.
func (p *Process) Stderr() Output { return p.stderr.counts() }

// Tethered reports whether the kernel ends the whole group with the host: always on Windows, on Linux when the tether
// could be armed, never on macOS.
func (p *Process) Tethered() bool { return p.box.tethered() }

// WaitGroupGone waits until every member of the group is gone, looking after 1 ms first and every 50 ms at last. Where this
// host inherits orphans, as PID 1 or a subreaper, those of the group are waited for too. When ctx ends first, the error wraps ErrStillAlive and the cause of ctx.
func (p *Process) WaitGroupGone(ctx context.Context) error {
	err := waitUntil(ctx, func() bool { return !p.GroupAlive() && lateOrphans(p.claim.leader, false) == 0 })
	if err != nil {
		return fmt.Errorf("wait for process group %d: %w", p.PID(), err)
	}
	return nil
}

const (
	firstLook = time.Millisecond
	lastLook  = 50 * time.Millisecond
)

// waitUntil asks done with growing pauses until it says yes or ctx ends. It asks at least once, and once more when
// ctx has ended.
func waitUntil(ctx context.Context, done func() bool) error {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for next := firstLook; ; next = min(2*next, lastLook) {
		if done() {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%w: %w", ErrStillAlive, context.Cause(ctx))
		}
		pause.Reset(next)
		select {
		case <-pause.C:
		case <-ctx.Done():
		}
	}
}
