package runtime

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/internal/control"
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

// Remove stops an instance and removes it from the set; its directory stays, see Purge. When
// ctx ends first, it returns the cause, and a removal that has begun goes on. It fails with
// ErrNotFound.
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

// Purge removes an instance as Remove does, and its directory with it: the database, the node key
// and the lines that its stop did not deliver. For an id that is not in the set it removes the
// directory of that name below WithRoot. It fails with instance.ErrInUse while an instance or
// another host process uses the directory, and with ErrNotFound.
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
	if err := r.occupy(m, place{dir: dir}); err != nil {
		return err
	}
	err := instance.Purge(ctx, dir)
	if errors.Is(err, fs.ErrNotExist) {
		return notFound(id)
	}
	return err
}

// Orphans returns, in order, the ids of instances that are not in the set but have a directory
// below WithRoot, for Purge.
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
	if err := r.occupy(m, placeOf(mk.plan(m.id, opts, nil))); err != nil {
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

// Change reports what became of an instance. The zero value: nothing changed.
type Change struct {
	// Added and Removed report that Sync added or removed the instance.
	Added, Removed bool
	// Restarted reports that the change needed a new osqueryd.
	Restarted bool
	// Changed names the options whose value changed, such as "WithFlag".
	Changed []string
}

func (c *Change) add(changes []control.Change) {
	for _, one := range changes {
		c.Changed = append(c.Changed, one.Option)
		c.Restarted = c.Restarted || one.Restart
	}
}

// Update replaces an instance's own options; the Runner's options and defaults stay. Options are
// compared by value, functions and pointers by identity, and equal ones change nothing. A field of
// Config, Logs, Distributed, Timeouts, Health or Queries that is zero equals its default.
//
// Tables, labels, observers, the logger, health (from the next check on), queries, diagnostics,
// all Timeouts but Extensions, all Logs (from the next batch and call on) but QueueBytes, LineLimit,
// WhenFull, Sync and RawEvents, and a transport for one with the same optional methods change
// without a new osqueryd. Others stop the run and start a new one. Any change resumes a parked
// instance. Snapshots, counters, tables of SetTables and queued lines carry on.
//
// Update returns when the old run is gone. When ctx ends first, it returns the cause, and an
// update that has begun goes on. It fails with ErrNotFound, or with every mistake in the options;
// then nothing has changed.
func (r *Runner) Update(ctx context.Context, id string, opts ...instance.Option) (Change, error) {
	opts = slices.Clone(opts)
	return r.update(ctx, id, func(*member) []instance.Option { return opts })
}

func (r *Runner) update(ctx context.Context, id string, own func(*member) []instance.Option) (Change, error) {
	m, err := r.claim(ctx, id, false)
	if err != nil {
		return Change{}, err
	}
	opts := own(m)
	next := r.makes().plan(id, opts, m.watch())
	var c Change
	c.add(next.Changes(m.in.Plan()))
	if c.Restarted {
		return r.updateByRestart(ctx, m, opts, c)
	}
	defer r.release(m)
	if len(c.Changed) == 0 && !next.Wrong() {
		r.setOptions(m, opts)
		return c, nil
	}
	if err := r.updateInPlace(ctx, m, opts, next); err != nil {
		return Change{}, err
	}
	return c, nil
}

func (r *Runner) setOptions(m *member, opts []instance.Option) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m.opts = opts
}

// updateInPlace changes a claimed member without a new osqueryd.
func (r *Runner) updateInPlace(ctx context.Context, m *member, opts []instance.Option, next control.Plan) error {
	mk := r.makes()
	check := func() error { return mk.check(ctx, m.id, opts) }
	if err := guard.Call(ctx, 0, check, nil); err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("instance %q is not updated: %w", m.id, context.Cause(ctx))
		}
		return err
	}
	r.mu.Lock()
	in, tables := m.in, m.tables == nil // those of SetTables stay
	r.mu.Unlock()
	if err := in.Apply(ctx, next, tables); err != nil {
		return fmt.Errorf("instance %q is not updated: %w", m.id, err)
	}
	in.Record(context.Background(), stats.InstanceUpdated{Head: head(m.id)})
	r.mu.Lock()
	defer r.mu.Unlock()
	m.opts = opts
	if m.parked {
		r.unpark(m)
	}
	return nil
}

// updateByRestart replaces the instance of a claimed member, which it releases.
func (r *Runner) updateByRestart(ctx context.Context, m *member, opts []instance.Option, c Change) (Change, error) {
	over := m.busy
	in, err := r.successorWithin(ctx, m, opts)
	if err != nil {
		r.release(m)
		return Change{}, err
	}
	r.count(m)
	go func() { // Run and everybody who waits for over join it
		defer r.release(m)
		r.replace(m, in, opts)
	}()
	if err := await(ctx, over); err != nil {
		return c, fmt.Errorf("instance %q is still being updated: %w", m.id, err)
	}
	return c, nil
}

// changesAtOnce bounds how many instances Sync and SetDefaults change at the same time.
const changesAtOnce = 32

// Sync makes the set exactly want: it removes, then adds and updates instances, as Remove, Add
// and Update do, up to 32 at a time. It returns the changes of those that are as wanted now,
// and joins the errors of the others, which stay as they are and affect no other. One Sync runs
// at a time.
func (r *Runner) Sync(ctx context.Context, want map[string][]instance.Option) (map[string]Change, error) {
	if err := r.beginMany(ctx); err != nil {
		return nil, err
	}
	defer r.endMany()
	gone := slices.DeleteFunc(r.IDs(), func(id string) bool { _, ok := want[id]; return ok })
	done, err := eachOf(gone, func(id string) (Change, error) {
		err := r.Remove(ctx, id)
		if errors.Is(err, ErrNotFound) {
			err = nil
		}
		return Change{Removed: true}, err
	})
	wanted, err2 := eachOf(slices.Sorted(maps.Keys(want)), func(id string) (Change, error) {
		return r.addOrUpdate(ctx, id, want[id])
	})
	maps.Copy(done, wanted)
	return done, errors.Join(err, err2)
}

// addOrUpdate copes with others who add and remove at the same time.
func (r *Runner) addOrUpdate(ctx context.Context, id string, opts []instance.Option) (Change, error) {
	for {
		c, err := r.Update(ctx, id, opts...)
		if !errors.Is(err, ErrNotFound) {
			return c, err
		}
		if err := context.Cause(ctx); err != nil {
			return Change{}, fmt.Errorf("instance %q is not added: %w", id, err)
		}
		if err := r.add(ctx, id, opts, false); !errors.Is(err, ErrExists) {
			return Change{Added: err == nil}, err
		}
	}
}

// SetDefaults replaces the options of WithInstanceDefaults, and updates every instance whose
// options differ by that, as Update does. It changes nothing when the new defaults are wrong for
// an instance.
func (r *Runner) SetDefaults(ctx context.Context, opts ...instance.Option) (map[string]Change, error) {
	if err := r.beginMany(ctx); err != nil {
		return nil, err
	}
	defer r.endMany()
	mk := r.makes().withDefaults(opts)
	_, err := eachOf(r.IDs(), func(id string) (Change, error) {
		r.mu.Lock()
		m, ok := r.members[id]
		var own []instance.Option
		if ok {
			own = m.opts
		}
		r.mu.Unlock()
		if !ok {
			return Change{}, nil
		}
		return Change{}, mk.check(ctx, id, own)
	})
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	r.maker = mk
	r.mu.Unlock()
	return eachOf(r.IDs(), func(id string) (Change, error) {
		c, err := r.update(ctx, id, func(m *member) []instance.Option { return m.opts })
		if errors.Is(err, ErrNotFound) {
			err = nil // it was removed meanwhile
		}
		return c, err
	})
}

// eachOf does it for each id, some at a time. It returns the answers of those that did not fail,
// and the errors of the others in the order of the ids.
func eachOf(ids []string, do func(id string) (Change, error)) (map[string]Change, error) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	turn := make(chan struct{}, changesAtOnce)
	errs := make([]error, len(ids))
	done := map[string]Change{}
	for i, id := range ids {
		turn <- struct{}{}
		wg.Go(func() {
			defer func() { <-turn }()
			c, err := do(id)
			mu.Lock()
			defer mu.Unlock()
			if errs[i] = err; err == nil {
				done[id] = c
			}
		})
	}
	wg.Wait()
	return done, errors.Join(errs...)
}

func (r *Runner) beginMany(ctx context.Context) error {
	select {
	case r.many <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("the set is being changed: %w", context.Cause(ctx))
	}
}

func (r *Runner) endMany() { <-r.many }

// Check reports every mistake that New would report. It leaves nothing behind, and runs nothing
// but the binary, for its version and flags.
func Check(opts ...Option) error {
	r, err := plan(opts)
	return errors.Join(err, r.addAll(true))
}

// Check reports every mistake that Add, or Update when the id exists, would report. It changes
// nothing.
func (r *Runner) Check(ctx context.Context, id string, opts ...instance.Option) error {
	r.mu.Lock()
	others := map[string]place{}
	for other, m := range r.members {
		if other != id {
			others[other] = m.place
		}
	}
	r.mu.Unlock()
	return r.draft(others).add(ctx, id, opts, true)
}

// CheckSync reports every mistake that Sync would report. It changes nothing.
func (r *Runner) CheckSync(ctx context.Context, want map[string][]instance.Option) error {
	d := r.draft(nil)
	_, err := eachOf(slices.Sorted(maps.Keys(want)), func(id string) (Change, error) {
		return Change{}, d.add(ctx, id, want[id], true)
	})
	return err
}

// draft is a Runner of the same options that is good for checks only.
func (r *Runner) draft(places map[string]place) *Runner {
	d := &Runner{o: r.o, log: r.log, maker: r.makes(), members: map[string]*member{}}
	for id, where := range places {
		d.members[id] = &member{id: id, place: where}
	}
	return d
}
