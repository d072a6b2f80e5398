package instance

import (
	"context"
	"errors"
	"fmt"

	"github.com/gofrs/flock"
)

// use is the hold on the instance's directory: the lock that keeps other hosts and
// other instances out, and the open queues. A run and a Ship may share it; it is
// given back with the last of them, so that nothing stays open between runs.
type use struct {
	turn  chan struct{} // full while somebody opens or closes
	users int           // the rest belongs to the holder of the turn
	lock  *flock.Flock
}

func newUse() use { return use{turn: make(chan struct{}, 1)} }

// enter makes the directory the instance's own until leave. It does not wait for
// somebody else who has it: that is an error.
func (in *Instance) enter(ctx context.Context) error {
	select {
	case in.use.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-in.use.turn }()
	if in.use.users == 0 {
		if err := in.openDirectory(); err != nil {
			return fmt.Errorf("%w: %w", errDirectory, err)
		}
	}
	in.use.users++
	return nil
}

func (in *Instance) openDirectory() error {
	p := in.place()
	if err := makeDir(p.dir, true); err != nil {
		return err
	}
	lock := flock.New(p.lock, flock.SetPermissions(0o600))
	switch locked, err := lock.TryLock(); {
	case err != nil:
		return fmt.Errorf("%s: %w", p.lock, err)
	case !locked:
		return fmt.Errorf("%s is in use by another host process, or by another instance of this one", p.dir)
	}
	if err := in.ext.OpenQueues(); err != nil {
		return errors.Join(err, lock.Unlock())
	}
	in.use.lock = lock
	return nil
}

// leave ends one use.
func (in *Instance) leave() {
	in.use.turn <- struct{}{}
	defer func() { <-in.use.turn }()
	if in.use.users--; in.use.users > 0 {
		return
	}
	if err := errors.Join(in.ext.CloseQueues(), in.use.lock.Unlock()); err != nil {
		in.log.Warn("the instance's directory could not be given back cleanly", "err", err)
	}
	in.use.lock = nil
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
	in.running = true
	return nil
}

func (in *Instance) end() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.running = false
}
