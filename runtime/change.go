package runtime

import (
	"context"
	"fmt"
	"slices"

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
// it runs; its directory stays. It waits for other
// changes of the instance. When ctx ends
// first, it returns the cause, and a removal that has begun goes on. It fails with
// ErrNotFound; of several at the same time, all return nil.
func (r *Runner) Remove(ctx context.Context, id string) error {
	m, err := r.claim(ctx, id, true)
	if m == nil {
		return err
	}
	over := m.busy
	go r.remove(m) // Run and everybody who waits for over join it
	if err := await(ctx, over); err != nil {
		return fmt.Errorf("instance %q is still stopping: %w", id, err)
	}
	return nil
}

// remove ends a claimed member.
func (r *Runner) remove(m *member) {
	defer r.release(m)
	r.halt(m)
	m.in.Record(context.Background(), stats.InstanceRemoved{Head: head(m.id)})
	r.shut(m)
	r.forget(m)
}

// shut closes a member's instance, which does not run.
func (r *Runner) shut(m *member) {
	ctx, cancel := context.WithTimeout(context.Background(), r.o.closeTimeout)
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

// Update gives an instance new options on top of those it has, and restarts it
// with them during Run. When one of them is wrong it says so, and nothing has
// changed. Snapshots and counters carry on, and so do the tables that SetTables
// set, and what is queued, also to another directory, which is announced by a stats.QueueLeft where it fails. It
// returns when the old run is gone; see WaitReady for the new one. It waits for other
// changes of the instance. When ctx ends first, it returns the cause: while the
// options are checked nothing has changed then, but an update that has begun goes on. It
// fails with ErrNotFound, or with what is wrong with the options.
func (r *Runner) Update(ctx context.Context, id string, opts ...instance.Option) error {
	m, err := r.claim(ctx, id, false)
	if err != nil {
		return err
	}
	over := m.busy
	all := append(slices.Clone(m.opts), opts...)
	in, err := r.successorWithin(ctx, m, all)
	if err != nil {
		r.release(m)
		return err
	}
	r.count(m)
	go func() { // Run and everybody who waits for over join it
		defer r.release(m)
		r.replace(m, in, all)
	}()
	if err := await(ctx, over); err != nil {
		return fmt.Errorf("instance %q is still being updated: %w", id, err)
	}
	return nil
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
	if err := r.settle(m, r.maker.locate(m.id, opts)); err != nil {
		return nil, err
	}
	return r.maker.make(ctx, m.id, opts, old, m.watch())
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
