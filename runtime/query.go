package runtime

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/internal/control"
	"github.com/osqvisor/osqvisor/stats"
)

// find returns the member of an id and its instance, once it is made.
func (r *Runner) find(id string) (*member, subject, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m, ok := r.members[id]
	if !ok || m.in == nil {
		return nil, nil, notFound(id)
	}
	return m, m.in, nil
}

// use calls an instance. One that was closed because of an update is called again
// when the update is over.
func (r *Runner) use(ctx context.Context, id string, do func(subject) error) error {
	for {
		m, in, err := r.find(id)
		if err != nil {
			return err
		}
		if err := do(in); !errors.Is(err, instance.ErrClosed) {
			return err
		}
		if err := r.successor(ctx, m, in); err != nil {
			return err
		}
	}
}

// successor waits for the change that closed in.
func (r *Runner) successor(ctx context.Context, m *member, in subject) error {
	r.mu.Lock()
	busy, replaced := m.busy, m.in != in || r.members[m.id] != m
	r.mu.Unlock()
	switch {
	case replaced:
		return nil
	case busy == nil: // the host closed it
		return fmt.Errorf("instance %q: %w", m.id, instance.ErrClosed)
	}
	if err := await(ctx, busy); err != nil {
		return fmt.Errorf("instance %q: a change of it is under way: %w", m.id, err)
	}
	return nil
}

// WaitReady waits, before Run too, until an instance is ready. It fails with ErrParked,
// ErrNotFound, or ctx's cause with what the instance was doing and its last failure.
func (r *Runner) WaitReady(ctx context.Context, id string) error {
	for {
		r.mu.Lock()
		m, ok := r.members[id]
		if !ok {
			r.mu.Unlock()
			return notFound(id)
		}
		in, changed, parked := m.in, m.changed, m.parked && m.parkedTold
		r.mu.Unlock()
		switch {
		case parked:
			return parkedError(id, in.Snapshot())
		case in != nil:
			err := in.AwaitReady(ctx, changed)
			if errors.Is(err, control.ErrAgain) {
				continue
			}
			if !errors.Is(err, instance.ErrClosed) || ctx.Err() != nil {
				return err
			}
		}
		if err := await(ctx, changed); err != nil {
			return fmt.Errorf("instance %q is not ready: %w", id, err)
		}
	}
}

// parkedError reports why an instance is parked.
func parkedError(id string, s stats.Snapshot) error {
	e := &instance.ParkedError{Instance: id, LastError: s.LastError}
	if len(s.History) > 0 {
		e.Cause = s.History[0].Cause
	}
	return e
}

// Query runs SQL in an instance; see instance.Query. It also fails with ErrNotFound, and with
// instance.ErrNotRunning between two runs.
func (r *Runner) Query(ctx context.Context, id, sql string) (rows instance.Rows, err error) {
	err = r.use(ctx, id, func(in subject) error {
		var err error
		rows, err = in.Query(ctx, sql)
		return err
	})
	return rows, err
}

// QueryEach runs SQL and calls each with every row; see instance.QueryEach. It fails as Query does.
func (r *Runner) QueryEach(ctx context.Context, id, sql string, each func(instance.Row) error) error {
	return r.use(ctx, id, func(in subject) error { return in.QueryEach(ctx, sql, each) })
}

// PushConfig updates the config of an instance now; see instance.PushConfig.
func (r *Runner) PushConfig(ctx context.Context, id string) error {
	return r.use(ctx, id, func(in subject) error { return in.PushConfig(ctx) })
}

// SetTables replaces the host's tables of an instance; see instance.SetTables. They stay
// through Update and later runs, and override instance.WithTables.
func (r *Runner) SetTables(ctx context.Context, id string, tables ...extension.Table) error {
	tables = slices.Clone(tables)
	for {
		m, _, err := r.find(id)
		if err != nil {
			return err
		}
		if again, err := r.setTables(ctx, m, tables); !again {
			return err
		}
	}
}

// setTables sets the tables of a member and remembers them, in one go: an Update brings back
// the ones that are remembered. again reports that the instance was replaced meanwhile.
func (r *Runner) setTables(ctx context.Context, m *member, tables []extension.Table) (again bool, err error) {
	select {
	case m.setting <- struct{}{}:
		defer func() { <-m.setting }()
	case <-ctx.Done():
		return false, fmt.Errorf("instance %q: other tables of it are being set: %w", m.id, context.Cause(ctx))
	}
	r.mu.Lock()
	in := m.in
	r.mu.Unlock()
	err = in.SetTables(ctx, tables...)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		m.tables = &tables
	}
	return err == nil && m.in != in, err
}

// Instance returns an instance, for its queries and state; its Run and Close fail with
// instance.ErrSupervised. An Update may replace it. It fails with ErrNotFound.
func (r *Runner) Instance(id string) (*instance.Instance, error) {
	_, s, err := r.find(id)
	if err != nil {
		return nil, err
	}
	in, ok := s.(supervised)
	if !ok {
		return nil, notFound(id)
	}
	return in.Instance, nil
}

// IDs returns the ids of the set, in order.
func (r *Runner) IDs() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Sorted(maps.Keys(r.members))
}

// Snapshot returns the state of one instance. It fails with ErrNotFound.
func (r *Runner) Snapshot(id string) (stats.Snapshot, error) {
	_, in, err := r.find(id)
	if err != nil {
		return stats.Snapshot{}, err
	}
	return in.Snapshot(), nil
}

// Snapshots returns the state of every instance, in the order of the ids.
func (r *Runner) Snapshots() []stats.Snapshot {
	var out []stats.Snapshot
	for _, id := range r.IDs() {
		if s, err := r.Snapshot(id); err == nil { // it may have left meanwhile
			out = append(out, s)
		}
	}
	return out
}

// Healthy summarizes the set for a health endpoint. An empty set is healthy.
func (r *Runner) Healthy() stats.Summary { return stats.Summarize(r.Snapshots()) }
