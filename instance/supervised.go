package instance

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/osqvisor/osqvisor/internal/control"
	"github.com/osqvisor/osqvisor/internal/guard"
	"github.com/osqvisor/osqvisor/stats"
)

// Internal is for package runtime: its parameter is of an internal package.
func Internal(set func(*control.Settings)) Option {
	return func(o *options) {
		set(&o.settings)
		if s := o.settings.Shared; s != nil {
			o.checks = s.Load(func() any { return &binaryChecks{} }).(*binaryChecks)
		}
		if ctx := o.settings.Context; ctx != nil {
			o.ctx = ctx
		}
		if now := o.settings.Clock; now != nil {
			o.clock = now
		}
	}
}

// supervised reports whether a Runner drives the instance.
func (in *Instance) supervised() bool { return in.o.settings.Supervise != nil }

// engine is what a Runner drives an instance by.
type engine struct{ in *Instance }

func (e *engine) Run(ctx context.Context) error { return e.in.runOnce(ctx) }

func (e *engine) Close(ctx context.Context) error { return e.in.closeOnce(ctx) }

func (e *engine) Ship(ctx context.Context) error { return e.in.ship(ctx) }

func (e *engine) Settle(ctx context.Context) { e.in.settle(ctx) }

func (e *engine) SetAsleep(asleep bool) { e.in.setAsleep(asleep) }

func (e *engine) Record(ctx context.Context, ev stats.Event) { e.in.record(ctx, ev) }

func (e *engine) Conditions(ctx context.Context) (control.Conditions, error) {
	return e.in.conditions(ctx)
}

func (e *engine) AwaitReady(ctx context.Context, until <-chan struct{}) error {
	return e.in.awaitReady(ctx, until, func() bool { return false })
}

func (e *engine) Plan() control.Plan { return plan{e.in.live.Load()} }

func (e *engine) Apply(ctx context.Context, p control.Plan, tables bool) error {
	next, ok := p.(plan)
	if !ok {
		return errors.New("a plan of another kind")
	}
	return e.in.apply(ctx, next.o, tables)
}

// plan is a set of options of which nothing was made.
type plan struct{ o *options }

func (p plan) Place() (dir, socket string) {
	if p.o.dir == "" && p.o.root == "" {
		return "", p.o.socket
	}
	paths := p.o.layout()
	return paths.dir, paths.socket
}

// record emits an event about the instance, in order with its own.
func (in *Instance) record(ctx context.Context, e stats.Event) {
	in.emitter.Emit(ctx, e)
	in.mu.Lock()
	defer in.mu.Unlock()
	in.wake() // it may have been parked, which ends WaitReady
}

// settle waits until every event so far was handed to the observers. When that takes
// longer than Timeouts.Observers allows, their context ends and what waits is dropped,
// which is logged; when one does not return then either, for as long again, it is left
// to itself. A run that was requested to end, and Close, end with it. Called from an observer of the instance it
// does nothing.
func (in *Instance) settle(ctx context.Context) { in.settleWithin(ctx, in.settleWait()) }

// settleWait is Timeouts.Observers, or what the stop that ends now leaves of it.
func (in *Instance) settleWait() time.Duration {
	in.mu.Lock()
	defer in.mu.Unlock()
	t := in.live.Load().timeouts
	left := time.Until(in.stopBy)
	if left <= 0 {
		return t.Observers
	}
	return min(t.Observers, max(left/settleWaits, stopFloor*t.stop()/100))
}

// errLooking reports that the disk has not answered yet.
var errLooking = errors.New("an earlier look at the binary and the directory has not returned")

// conditions looks at the binary and at the room in the directory, by two system calls.
// They have until ctx ends: a file system may hang. It fails then, and until they returned.
func (in *Instance) conditions(ctx context.Context) (control.Conditions, error) {
	select {
	case in.looking <- struct{}{}:
	default:
		return control.Conditions{}, errLooking
	}
	found := make(chan control.Conditions, 1)
	path, dir := in.Binary().Path, in.paths.dir
	go func() { // it ends when the system answers
		defer func() { <-in.looking }()
		found <- control.Conditions{Binary: identityOf(path), Free: freeRoom(dir)}
	}()
	select {
	case c := <-found:
		return c, nil
	case <-ctx.Done():
		return control.Conditions{}, context.Cause(ctx)
	}
}

// setAsleep sets whether the machine is about to sleep: what health checks found before, and
// find until it is awake, is void. It is for systems on which a sleep does not show in the
// clocks, and for hosts that know before them.
func (in *Instance) setAsleep(asleep bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if (in.sleep.n%2 == 1) != asleep {
		in.sleep = sleepState{in.sleep.n + 1, time.Now()}
	}
}

// ship delivers what is queued until ctx ends, whether or not osqueryd runs.
// Run does so by itself for as long as it lasts; a supervisor that calls ship
// as well keeps deliveries going between runs and while the instance is parked, and
// keeps the instance's directory meanwhile. While somebody else delivers, a run
// included, it waits to take over. It returns nil when ctx ends, and fails with
// ErrClosed, or when the directory is used by another host or instance.
func (in *Instance) ship(ctx context.Context) error {
	select {
	case <-in.ended:
		return fmt.Errorf("instance %q: %w", in.o.id, ErrClosed)
	default:
	}
	select {
	case in.shipping <- struct{}{}:
	case <-in.ended:
		return fmt.Errorf("instance %q: %w", in.o.id, ErrClosed)
	case <-ctx.Done():
		return nil
	}
	if ctx.Err() != nil {
		<-in.shipping
		return nil
	}
	if err := in.enter(ctx); err != nil {
		<-in.shipping
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("instance %q: %w", in.o.id, err)
	}
	return in.shipEntered(ctx)
}

// shipEntered delivers, leaves the directory and the place of who delivers. It does so also when ctx has ended by now.
func (in *Instance) shipEntered(ctx context.Context) error {
	var lane guard.Lane
	var err error // once done is closed
	done := lane.Go(func() {
		defer func() { <-in.shipping }()
		defer func() { <-in.dirLock.disk.Go(in.leave) }()
		err = in.ext.Run(ctx)
	})
	select {
	case <-done:
		return err
	case <-ctx.Done():
	}
	if !guard.Wait(done, 2*in.live.Load().timeouts.giveUp()) {
		in.log.Error("shipping does not end; it is left to itself")
		return nil
	}
	return err
}
