package instance

import (
	"context"
	"errors"
	"fmt"

	"github.com/osqvisor/osqvisor/internal/guard"
)

// Ship delivers what is queued until ctx ends, whether or not osqueryd runs.
// Run does so by itself for as long as it lasts; a supervisor that calls Ship
// as well keeps deliveries going between runs and while the instance is parked, and
// keeps the instance's directory meanwhile. While somebody else ships, a run
// included, it waits to take over. It returns nil when ctx ends, and fails with
// ErrClosed, or when the directory is used by another host or instance.
func (in *Instance) Ship(ctx context.Context) error {
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
	err := guard.Call(ctx, in.o.killTimeout+shipEnd, func() error {
		defer func() { <-in.shipping }()
		defer func() { <-in.use.disk.Go(in.leave) }()
		return in.ext.Run(ctx)
	}, nil)
	if errors.Is(err, guard.ErrHangs) {
		in.log.Error("shipping does not end; it is left to itself")
		return nil
	}
	return err
}

// shipForRun ships for as long as a run lasts, its last deliveries included; while
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
