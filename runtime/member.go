package runtime

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/internal/guard"
	"github.com/osqvisor/osqvisor/stats"
)

// member is an instance of the set. Its fields are guarded by the Runner's lock,
// but for id, alarm, wake and setting.
type member struct {
	id    string
	alarm *alarm        // nil without WithRateAlarm
	wake  chan struct{} // tells a supervisor that waits to look again; holds one token

	opts   []instance.Option
	tables *[]extension.Table // what SetTables gave; nil when it was not called
	place  place
	in     subject // nil while it is being added

	cancel context.CancelFunc // of its supervisor; nil without one
	done   chan struct{}      // closed when the supervisor has ended; nil without one

	setting chan struct{} // holds a token while SetTables is under way

	busy     chan struct{} // closed when the change under way is over; nil without one
	removing bool          // that change is a removal
	counted  bool          // Run waits for that change

	run    *liveRun // nil between runs
	again  bool     // the host asked for a new run
	parked bool
	// parkedTold is set when the park was recorded; only then does it end WaitReady.
	parkedTold bool
	sick       bool // the last start failed

	changed chan struct{} // closed and replaced whenever any of this changed
}

// liveRun is a run that can be ended.
type liveRun struct {
	cancel context.CancelFunc
	over   chan struct{} // closed when nothing of the run is left
}

func (r *Runner) newMember(id string, opts []instance.Option) *member {
	m := &member{
		id: id, opts: slices.Clone(opts), wake: make(chan struct{}, 1),
		setting: make(chan struct{}, 1), busy: make(chan struct{}), changed: make(chan struct{}),
	}
	if r.o.alarmLimit > 0 {
		m.alarm = newAlarm(id, r.o.alarmLimit, r.o.alarmWindow)
	}
	return m
}

// poke makes the supervisor look at what the host asked for.
func (m *member) poke() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// notify is called under the lock. It wakes everybody who waits for a change.
func (m *member) notify() {
	close(m.changed)
	m.changed = make(chan struct{})
}

func head(id string) stats.Head { return stats.Head{Time: time.Now(), Instance: id} }

// Add makes an instance and takes it into the set; during Run it is started at
// once. It reports all mistakes in the options at once, and changes nothing then.
// It fails with ErrExists, also while an instance of that id is being removed, and with
// ErrSharedDirectory or ErrSharedSocket. It does not wait for the instance to be
// ready; see WaitReady.
func (r *Runner) Add(id string, opts ...instance.Option) error {
	return r.add(context.Background(), id, opts, false)
}

// add is Add. In a dry run the member has no instance, and keeps its place for further checks.
func (r *Runner) add(ctx context.Context, id string, opts []instance.Option, dry bool) error {
	m := r.newMember(id, opts)
	if err := r.reserve(m); err != nil {
		return err
	}
	defer r.release(m)
	mk := r.makes()
	where := placeOf(mk.plan(id, opts, nil))
	if err := r.settle(m, where); err != nil {
		r.forget(m)
		return err
	}
	if dry {
		return mk.check(ctx, id, m.opts)
	}
	in, err := mk.make(ctx, id, m.opts, nil, m.watch())
	if err != nil {
		r.forget(m)
		return err
	}
	r.count(m)
	r.install(m, in, m.opts)
	in.Record(context.Background(), stats.InstanceAdded{Head: head(id)})
	return nil
}

// reserve takes the id, so that two Adds of it cannot both make an instance.
func (r *Runner) reserve(m *member) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if old, ok := r.members[m.id]; ok {
		if old.removing {
			return fmt.Errorf("instance %q: %w, and it is being removed; wait for Remove to return", m.id, ErrExists)
		}
		return fmt.Errorf("instance %q: %w", m.id, ErrExists)
	}
	r.members[m.id] = m
	return nil
}

// count has Run wait for the change of a claimed member, which has begun now: the checks
// before it are its caller's.
func (r *Runner) count(m *member) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m.counted = true
	r.tasks++
}

// release ends a change: of Add, Update or Remove. What is in the set is started.
func (r *Runner) release(m *member) {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(m.busy)
	m.busy, m.removing = nil, false
	if r.members[m.id] == m {
		r.launch(m)
	}
	m.notify()
	if m.counted {
		m.counted = false
		r.taskDone()
	}
}

func (r *Runner) forget(m *member) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.members, m.id)
}

// settle gives a member its place, unless another has it.
func (r *Runner) settle(m *member, where place) error {
	r.mu.Lock()
	others := map[string]place{}
	for id, other := range r.members {
		if other != m {
			others[id] = other.place
		}
	}
	m.place = where // before the others are looked at, so that one of two at a time is told
	r.mu.Unlock()
	there := statOrNil(where.dir) // once, and not for each of the others
	for id, theirs := range others {
		if err := where.conflict(there, theirs); err != nil {
			return fmt.Errorf("instance %q: %w: it is instance %q's", m.id, err, id)
		}
	}
	return nil
}

// conflict says what two places share. there is p's directory, or nil when nothing is
// there yet, which cannot be another's by another name.
func (p place) conflict(there os.FileInfo, other place) error {
	if p.dir != "" && (p.dir == other.dir || sameFile(there, other.dir)) {
		return fmt.Errorf("%w: %s", ErrSharedDirectory, p.dir)
	}
	// osqueryd deletes whatever begins with its socket's path and a dot.
	a, b := p.socket, other.socket
	if a != "" && b != "" && (a == b || strings.HasPrefix(a, b+".") || strings.HasPrefix(b, a+".")) {
		return fmt.Errorf("%w: %s", ErrSharedSocket, a)
	}
	return nil
}

// sameFile looks through links, and at file systems that ignore case.
func sameFile(there os.FileInfo, path string) bool {
	if there == nil || path == "" {
		return false
	}
	other := statOrNil(path)
	return other != nil && os.SameFile(there, other)
}

// statOrNil does not wait for a file system that hangs.
func statOrNil(path string) os.FileInfo {
	found := make(chan os.FileInfo, 1)
	guard.Within(lookTimeout, func() {
		if info, err := os.Stat(path); err == nil {
			found <- info
		}
	})
	select {
	case info := <-found:
		return info
	default:
		return nil
	}
}

// watch is the observer of the Runner's own, or nil.
func (m *member) watch() stats.Observer {
	if m.alarm == nil {
		return nil
	}
	return m.alarm
}

// install puts an instance in its place, with the tables that it should have.
func (r *Runner) install(m *member, in subject, opts []instance.Option) {
	if m.alarm != nil {
		m.alarm.bind(in)
	}
	r.mu.Lock()
	m.in, m.opts, m.sick = in, opts, false
	in.SetAsleep(r.asleep != nil)
	m.notify()
	r.mu.Unlock()
	m.setting <- struct{}{} // who has it waits for nothing that waits for this
	defer func() { <-m.setting }()
	r.mu.Lock()
	tables := m.tables
	r.mu.Unlock()
	if tables == nil {
		return
	}
	// They were good before, and nothing runs that could refuse them.
	if err := in.SetTables(context.Background(), *tables...); err != nil {
		r.log.Error("the tables of SetTables could not be set again", "instance", m.id, "err", err)
	}
}
