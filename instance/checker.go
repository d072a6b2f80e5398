package instance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"
)

// hostChecker lets one call of the host's health checker run at a time, and holds
// nobody up when one does not return.
type hostChecker struct {
	slot chan struct{} // full while the host's code runs
}

func newHostChecker() hostChecker { return hostChecker{slot: make(chan struct{}, 1)} }

// errGone says that there is nothing left to be checked.
var errGone = errors.New("osqueryd's worker went away meanwhile")

// askHostChecker calls the host's own check, if it has one, and contains it. It
// returns with ctx at the latest, and when gone is closed, which may be nil: the host's
// code may wait for what only the caller can bring back.
func (in *Instance) askHostChecker(ctx context.Context, gone <-chan struct{}) error {
	if in.o.healthChecker == nil {
		return nil
	}
	select {
	case in.checker.slot <- struct{}{}:
	case <-gone:
		return errGone
	case <-ctx.Done():
		return fmt.Errorf("the host's health checker has not returned from an earlier call: %w", context.Cause(ctx))
	}
	done := make(chan error, 1)
	go func() { // it ends when the host's code returns; wait joins it
		defer func() { <-in.checker.slot }()
		done <- in.callHostChecker(ctx)
	}()
	select {
	case err := <-done:
		return err
	case <-gone:
		return errGone
	case <-ctx.Done():
		return fmt.Errorf("the host's health checker: %w", context.Cause(ctx))
	}
}

func (in *Instance) callHostChecker(ctx context.Context) (err error) {
	defer func() {
		if v := recover(); v != nil {
			in.caughtPanicIn("health checker", v, debug.Stack())
			err = fmt.Errorf("the host's health checker panicked: %v", v)
		}
	}()
	if err := in.o.healthChecker(ctx, in); err != nil {
		return fmt.Errorf("the host's health checker: %w", err)
	}
	return nil
}

// wait joins a call that is under way, for at most d.
func (c hostChecker) wait(d time.Duration, log *slog.Logger) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case c.slot <- struct{}{}:
		<-c.slot
	case <-timer.C:
		log.Error("the host's health checker does not return although its context ended")
	}
}
