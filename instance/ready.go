package instance

import (
	"context"
	"fmt"

	"github.com/osqvisor/osqvisor/stats"
)

// setCurrent makes r the current run, or nil the end of it.
func (in *Instance) setCurrent(r *run) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.current = r
	in.wake()
}

// wake is called under the lock, after something that a waiter looks at changed.
func (in *Instance) wake() {
	close(in.changed)
	in.changed = make(chan struct{})
}

// WaitReady waits until the current run is ready, or one that is started
// meanwhile. It fails with ErrParked, with ErrClosed, or with ctx's cause; the text
// then says what the instance was doing, and what its last failure was. In an observer it
// can wait for what the end of a run lets wait for the observer.
func (in *Instance) WaitReady(ctx context.Context) error {
	for {
		in.mu.Lock()
		ready, closed, changed := in.current != nil && in.current.told, in.closed, in.changed
		in.mu.Unlock()
		switch {
		case ready:
			return nil
		case closed:
			return fmt.Errorf("instance %q: %w", in.o.id, ErrClosed)
		case in.rec.State() == stats.StateParked:
			return in.parked()
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return in.notReady(context.Cause(ctx))
		}
	}
}

// isReady says whether the current run takes requests.
func (in *Instance) isReady() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.current != nil && in.current.ready
}

// notRunning is ErrNotRunning with what the instance does instead.
func (in *Instance) notRunning() error {
	state := in.rec.State()
	if state == stats.StateParked {
		return in.parked()
	}
	return fmt.Errorf("instance %q is %s: %w", in.o.id, state, ErrNotRunning)
}

func (in *Instance) parked() error {
	s := in.Snapshot()
	e := &ParkedError{Instance: in.o.id, LastError: s.LastError}
	if len(s.History) > 0 {
		e.Cause = s.History[0].Cause
	}
	return e
}

// notReady says why a wait ended.
func (in *Instance) notReady(why error) error {
	s := in.Snapshot()
	if s.LastError == "" {
		return fmt.Errorf("instance %q is %s, not ready: %w", in.o.id, s.State, why)
	}
	return fmt.Errorf("instance %q is %s, not ready: %w; its last failure: %s", in.o.id, s.State, why, s.LastError)
}

// RunID gives the id of the current run; it is empty between runs.
func (in *Instance) RunID() string {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.current == nil {
		return ""
	}
	return in.current.id
}

// WaitRunOver waits until the run of that id is not the current one. It fails with ctx's cause.
func (in *Instance) WaitRunOver(ctx context.Context, run string) error {
	for run != "" {
		in.mu.Lock()
		over, changed := in.current == nil || in.current.id != run, in.changed
		in.mu.Unlock()
		if over {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("instance %q is still stopping: %w", in.o.id, context.Cause(ctx))
		}
	}
	return nil
}

// PID gives the process that we started, the watcher when the watchdog is on; 0 between runs.
func (in *Instance) PID() int {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.current == nil || in.current.proc == nil {
		return 0
	}
	return in.current.proc.PID()
}
