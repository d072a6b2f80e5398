package runtime

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/internal/guard"
	"github.com/osqvisor/osqvisor/stats"
)

// claim takes the right to change a member: one change at a time. Run does not return
// before a removal is released. When the instance is removed meanwhile, there is
// none and no error if gone is what the caller wants.
func (r *Runner) claim(ctx context.Context, id string, removal bool) (*member, error) {
	for seenRemoval := false; ; {
		r.mu.Lock()
		m, ok := r.members[id]
		switch {
		case !ok && removal && seenRemoval:
			r.mu.Unlock()
			return nil, nil
		case !ok:
			r.mu.Unlock()
			return nil, notFound(id)
		case m.busy == nil:
			m.busy, m.removing = make(chan struct{}), removal
			if removal {
				m.counted = true
				r.tasks++
			}
			r.mu.Unlock()
			return m, nil
		}
		busy := m.busy
		seenRemoval = m.removing
		r.mu.Unlock()
		if err := await(ctx, busy); err != nil {
			return nil, fmt.Errorf("instance %q: another change of it is under way: %w", id, err)
		}
	}
}

func notFound(id string) error { return fmt.Errorf("instance %q: %w", id, ErrNotFound) }

// await waits for what is closed when it is over.
func await(ctx context.Context, over <-chan struct{}) error {
	select {
	case <-over:
		return nil
	default:
	}
	select {
	case <-over:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Remove stops an instance and takes it out of the set. It returns when nothing of
// it runs; its directory stays, see Purge. It waits for other changes of the instance. When ctx
// ends first, it returns the cause, and a removal that has begun goes on. It fails with
// ErrNotFound; of several at the same time, all return nil.
func (r *Runner) Remove(ctx context.Context, id string) error {
	return r.removeThen(ctx, id, nil)
}

// removeThen removes an instance, and does what is left to do while its id is still taken.
func (r *Runner) removeThen(ctx context.Context, id string, then func(m *member) error) error {
	m, err := r.claim(ctx, id, true)
	if m == nil {
		return err
	}
	over, result := m.busy, make(chan error, 1)
	go func() { // Run and everybody who waits for over join it
		defer r.release(m)
		r.remove(m)
		if then != nil {
			result <- then(m)
		}
		r.forget(m)
	}()
	if err := await(ctx, over); err != nil {
		return fmt.Errorf("instance %q is still stopping: %w", id, err)
	}
	if then == nil {
		return nil
	}
	return <-result
}

// remove ends a claimed member.
func (r *Runner) remove(m *member) {
	r.halt(m)
	m.in.Record(context.Background(), stats.InstanceRemoved{Head: head(m.id)})
	r.shut(m)
}

// Purge removes an instance as Remove does, and then its directory, with its database, its node
// key and the queued lines that its stop could not deliver. For an id that is not in the set it
// removes the directory of that name below WithRoot; see Orphans. It fails with
// instance.ErrInUse, and removes nothing, when an instance or another host process uses the
// directory, and with ErrNotFound when there is none.
func (r *Runner) Purge(ctx context.Context, id string) error {
	err := r.removeThen(ctx, id, func(m *member) error {
		err := purge(m.place.dir)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	if errors.Is(err, ErrNotFound) {
		return r.purgeOrphan(ctx, id)
	}
	return err
}

// purgeWithin bounds the removal of a directory, whose file system may hang.
const purgeWithin = time.Minute

func purge(dir string) error {
	ctx, cancel := context.WithTimeout(context.Background(), purgeWithin)
	defer cancel()
	return instance.Purge(ctx, dir)
}

// purgeOrphan takes the id meanwhile, so that nobody adds an instance of it.
func (r *Runner) purgeOrphan(ctx context.Context, id string) error {
	if r.o.root == "" || instance.CheckID(id) != nil {
		return notFound(id)
	}
	m := r.newMember(id, nil)
	if err := r.reserve(m); err != nil {
		return err
	}
	defer r.release(m)
	defer r.forget(m)
	dir := filepath.Join(r.o.root, id)
	if err := r.settle(m, place{dir: dir}); err != nil {
		return err
	}
	err := instance.Purge(ctx, dir)
	if errors.Is(err, fs.ErrNotExist) {
		return notFound(id)
	}
	return err
}

// Orphans returns, in order, the ids whose directories are below WithRoot although no instance of
// the set uses them: those that Purge can remove, unless another host process uses them.
func (r *Runner) Orphans() ([]string, error) {
	if r.o.root == "" {
		return nil, nil
	}
	entries, err := os.ReadDir(r.o.root)
	if err != nil {
		return nil, fmt.Errorf("the directories of instances cannot be read: %w", err)
	}
	var ids []string
	for _, e := range entries {
		dir := filepath.Join(r.o.root, e.Name())
		if e.IsDir() && instance.CheckID(e.Name()) == nil && instance.IsDirectory(dir) && !r.uses(dir) {
			ids = append(ids, e.Name())
		}
	}
	return ids, nil
}

// uses reports whether a member has the directory.
func (r *Runner) uses(dir string) bool {
	there := statOrNil(dir)
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, m := range r.members {
		if m.place.dir == dir || sameFile(there, m.place.dir) {
			return true
		}
	}
	return false
}

// closeWithin bounds the wait for observers when an instance is closed.
const closeWithin = 10 * time.Second

// shut closes a member's instance, which does not run.
func (r *Runner) shut(m *member) {
	ctx, cancel := context.WithTimeout(context.Background(), closeWithin)
	defer cancel()
	if err := m.in.Close(ctx); err != nil {
		r.log.Error("an instance did not close as it should", "instance", m.id, "err", err)
	}
}

// halt ends a member's supervisor and waits for it.
func (r *Runner) halt(m *member) {
	r.mu.Lock()
	cancel, done := m.cancel, m.done
	r.mu.Unlock()
	if done != nil {
		cancel()
		<-done
	}
}

// successorWithin is successorOf until ctx ends. Then its executions of the binary end too;
// what a file system holds up is left to itself.
func (r *Runner) successorWithin(ctx context.Context, m *member, opts []instance.Option) (subject, error) {
	before := m.place // it changes in claimed hands only
	old := m.in
	var in subject
	err := guard.Call(ctx, 0, func() (err error) {
		in, err = r.successorOf(ctx, m, old, opts)
		return err
	}, nil)
	if err == nil {
		return in, nil
	}
	r.move(m, before)
	if ctx.Err() != nil {
		return nil, fmt.Errorf("instance %q is not updated: %w", m.id, context.Cause(ctx))
	}
	return nil, err
}

// successorOf makes the instance with the new options, without touching what runs.
func (r *Runner) successorOf(ctx context.Context, m *member, old subject, opts []instance.Option) (subject, error) {
	mk := r.makes()
	if err := r.settle(m, placeOf(mk.plan(m.id, opts, nil))); err != nil {
		return nil, err
	}
	return mk.make(ctx, m.id, opts, old, m.watch())
}

func (r *Runner) move(m *member, where place) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m.place = where
}

// replace ends the old instance and puts the new one in its place.
func (r *Runner) replace(m *member, in subject, opts []instance.Option) {
	r.halt(m)
	r.shut(m)
	r.install(m, in, opts)
	in.Record(context.Background(), stats.InstanceUpdated{Head: head(m.id)})
}
