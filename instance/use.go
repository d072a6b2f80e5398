package instance

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/gofrs/flock"

	"github.com/osqvisor/osqvisor/internal/guard"
	"github.com/osqvisor/osqvisor/stats"
)

// use is the hold on the instance's directory: the lock that keeps other hosts and
// other instances out, and the open queues. A run and a Ship may share it; it is
// given back with the last of them, so that nothing stays open between runs.
type use struct {
	disk  guard.Lane // for what changes the directory, in order; the rest belongs to it
	users int
	lock  *flock.Flock
}

// errDiskHangs is why nobody waits for a file system any more.
var errDiskHangs = errors.New("the file system does not answer")

// onDisk does what may hang with the file system of the directory, after what was begun
// there before. It waits as long as WithDiskTimeout, and when ctx ends first, as
// WithKillTimeout for what has begun. Should that succeed later, it is undone.
func (in *Instance) onDisk(ctx context.Context, what string, f func() error, undo func()) error {
	bounded, cancel := context.WithTimeoutCause(ctx, in.o.diskTimeout, errDiskHangs)
	defer cancel()
	err := in.use.disk.Try(bounded, in.o.killTimeout, func() error {
		in.o.diskHook(what)
		return f()
	}, undo)
	switch {
	case err == nil || !errors.Is(err, context.Cause(bounded)):
		return err
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return fmt.Errorf("%w: %s: %w", errDirectory, what, err)
}

// enter makes the directory the instance's own until leave. It does not wait for
// somebody else who has it: that is an error.
func (in *Instance) enter(ctx context.Context) error {
	return in.onDisk(ctx, "opening it", func() error {
		if in.use.users == 0 {
			if err := in.openDirectory(ctx); err != nil {
				return fmt.Errorf("%w: %w", errDirectory, err)
			}
		}
		in.use.users++
		return nil
	}, in.leave)
}

func (in *Instance) openDirectory(ctx context.Context) error {
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
	sweep(p.dir)
	sweep(filepath.Join(p.dir, "queue"))
	in.adopt(ctx)
	if err := in.ext.OpenQueues(); err != nil {
		return errors.Join(err, lock.Unlock())
	}
	in.use.lock = lock
	return nil
}

// adopt brings along the queues of the directories that the instance had before. What stays behind was announced, and is
// tried again with the next use.
func (in *Instance) adopt(ctx context.Context) {
	var left []string
	for _, dir := range in.formerDirs() {
		if err := in.adoptFrom(ctx, dir); err != nil {
			in.log.Warn("lines are left in the instance's former directory", "directory", dir, "err", err)
			left = append(left, dir)
		}
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	in.former = left
}

func (in *Instance) formerDirs() []string {
	in.mu.Lock()
	defer in.mu.Unlock()
	return slices.Clone(in.former)
}

func (in *Instance) adoptFrom(ctx context.Context, dir string) error {
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	lock := flock.New(filepath.Join(dir, lockName), flock.SetPermissions(0o600))
	locked, err := lock.TryLock()
	if err == nil && !locked {
		err = errors.New("it is in use by another instance or host process")
	}
	if err != nil {
		in.emit(stats.QueueLeft{Head: in.head(), Dir: dir, Err: err})
		return err
	}
	return errors.Join(in.ext.AdoptQueues(ctx, dir), lock.Unlock())
}

// leave ends one use. It is for the lane.
func (in *Instance) leave() {
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
