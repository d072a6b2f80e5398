package runtime

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/internal/control"
	"github.com/osqvisor/osqvisor/internal/delivery"
	"github.com/osqvisor/osqvisor/internal/guard"
	"github.com/osqvisor/osqvisor/internal/plugin"
	"github.com/osqvisor/osqvisor/stats"
)

// Runner supervises a set of instances. All methods are safe for concurrent use, before, during
// and after Run; for callbacks see the package's documentation.
type Runner struct {
	o      *options
	log    *slog.Logger
	starts *starts

	many chan struct{} // holds a token while Sync or SetDefaults is under way

	mu      sync.Mutex // never held across I/O or code of the host
	maker   maker      // another one after SetDefaults
	members map[string]*member
	running bool            // from the beginning of Run to its end
	ctx     context.Context // of Run; nil when nothing is started any more
	tasks   int             // supervisors and changes under way, which Run joins
	idle    chan struct{}   // closed when tasks falls to 0; nil while nobody waits
	asleep  chan struct{}   // closed by Wake; nil while awake
	// alarmClock ends a sleep without Wake.
	alarmClock *time.Timer
}

// New checks every option, those of the instances too, and reports all mistakes at once. It makes
// the directories of the instances, and runs the binary for its version and flags; nothing has to
// be closed when the Runner is not used.
func New(opts ...Option) (*Runner, error) {
	r, err := plan(opts)
	if err := errors.Join(err, r.addAll(err != nil)); err != nil {
		return nil, err
	}
	return r, nil
}

// plan makes a Runner without its instances, and checks what is the Runner's own. With an
// error the Runner is good for checks only.
func plan(opts []Option) (*Runner, error) {
	o, err := newOptions(opts)
	r := &Runner{
		o: o, log: o.logger,
		starts:  newStarts(max(o.starts.Limit, 1)),
		many:    make(chan struct{}, 1),
		members: map[string]*member{},
	}
	maker := &realMaker{
		root: o.root, noRoot: o.rootSet && o.root == "", common: o.common, defaults: o.defaults, gate: r.gateOf,
		pace: plugin.NewEnrollPace(plugin.DefaultEnrollRate), shared: &control.Shared{},
		disk: delivery.NewBudget(o.disk),
	}
	r.maker = maker
	if o.binarySet {
		err = errors.Join(err, maker.checkBinary(o.binary))
	}
	return r, err
}

// makes returns what makes the instances now.
func (r *Runner) makes() maker {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.maker
}

// addAll adds the instances of New's options. In a dry run it only reports every mistake.
func (r *Runner) addAll(dry bool) error {
	var errs []error
	seen := map[string]bool{}
	for _, spec := range r.o.members {
		err := r.add(context.Background(), spec.id, spec.opts, dry)
		errs = append(errs, err)
		if seen[spec.id] && !errors.Is(err, ErrExists) { // the first of them was refused
			errs = append(errs, fmt.Errorf("instance %q: %w", spec.id, ErrExists))
		}
		seen[spec.id] = true
	}
	return errors.Join(errs...)
}

// Run starts every instance, parked ones too, and every one that is added, and keeps them
// running until ctx ends. It returns nil when every process, goroutine, socket and open file of
// all instances is gone; no failure of an instance ends it. It fails with ErrRunning while it is
// under way, and may be called again later.
//
// It returns within the longest instance.Timeouts.Stop, and 10 s more for an instance that is
// removed or updated at that moment. Callbacks and file systems that hang are left behind.
func (r *Runner) Run(ctx context.Context) error {
	if err := r.begin(ctx); err != nil {
		return err
	}
	<-ctx.Done()
	r.end()
	return nil
}

func (r *Runner) begin(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.running {
		return ErrRunning
	}
	r.running, r.ctx = true, ctx
	for _, m := range r.members {
		r.launch(m)
	}
	return nil
}

// end starts nothing more, and waits for all that was started. A change that comes
// while it waits is waited for too.
func (r *Runner) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ctx = nil
	r.join()
	r.settleAll()
	r.join()
	r.settleLog()
	r.running = false
}

// join is called under the lock, which it releases while it waits.
func (r *Runner) join() {
	for r.tasks > 0 {
		if r.idle == nil {
			r.idle = make(chan struct{})
		}
		idle := r.idle
		r.mu.Unlock()
		<-idle
		r.mu.Lock()
	}
}

// settleAll is called under the lock, which it releases while it waits for the observers
// to take what was recorded outside of runs.
func (r *Runner) settleAll() {
	var wg sync.WaitGroup
	for _, m := range r.members {
		if in := m.in; in != nil {
			wg.Go(func() { in.Settle(context.Background()) })
		}
	}
	r.mu.Unlock()
	wg.Wait()
	r.mu.Lock()
}

// settleLog is called under the lock, which it releases while it waits for the host's log
// handler.
func (r *Runner) settleLog() {
	r.mu.Unlock()
	guard.SettleLog(r.log, guard.LogSettle)
	r.mu.Lock()
}

// taskDone is called under the lock, at the end of what was counted in tasks.
func (r *Runner) taskDone() {
	r.tasks--
	if r.tasks == 0 && r.idle != nil {
		close(r.idle)
		r.idle = nil
	}
}

// launch is called under the lock. It starts the supervisor of a member, if Run is
// under way and the member can run.
func (r *Runner) launch(m *member) {
	if r.ctx == nil || m.in == nil || m.busy != nil || m.done != nil {
		return
	}
	ctx, cancel := context.WithCancel(r.ctx)
	m.cancel, m.done = cancel, make(chan struct{})
	m.again, m.parked = false, false
	s := newSupervisor(r, m)
	r.tasks++
	go func() {
		defer cancel()
		s.run(ctx)
		r.retire(m)
	}()
}

// retire ends a supervisor's time.
func (r *Runner) retire(m *member) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m.parked = false
	close(m.done)
	m.cancel, m.done = nil, nil
	m.notify()
	r.taskDone()
}

// member is an instance of the set. Its fields are guarded by the Runner's lock,
// but for id, alarm, wake and setting.
type member struct {
	id    string
	alarm *alarm        // nil without WithRateAlarm
	wake  chan struct{} // makes a supervisor that waits look again; holds one token

	opts   []instance.Option
	tables *[]extension.Table // what SetTables set; nil when it was not called
	place  place
	in     subject // nil while it is being added

	cancel context.CancelFunc // of its supervisor; nil without one
	done   chan struct{}      // closed when the supervisor has ended; nil without one

	setting chan struct{} // holds a token while SetTables is under way

	busy     chan struct{} // closed when the change under way is over; nil without one
	removing bool          // that change is a removal
	counted  bool          // Run waits for that change

	run    *liveRun // nil between runs
	again  bool     // the host requested a new run
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

// poke makes the supervisor look at what the host requested.
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

// Add adds an instance; during Run it is started at once, see WaitReady. It fails with every
// mistake in the options, ErrExists, also while Remove is under way, ErrSharedDirectory or
// ErrSharedSocket.
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
	if err := r.occupy(m, where); err != nil {
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

// occupy reserves a place for a member, unless another has it.
func (r *Runner) occupy(m *member, where place) error {
	r.mu.Lock()
	others := map[string]place{}
	for id, other := range r.members {
		if other != m {
			others[id] = other.place
		}
	}
	m.place = where // before the others are looked at, so that one of two at a time fails
	r.mu.Unlock()
	there := statOrNil(where.dir) // once, and not for each of the others
	for id, theirs := range others {
		if err := where.conflict(there, theirs); err != nil {
			return fmt.Errorf("instance %q: %w: it is instance %q's", m.id, err, id)
		}
	}
	return nil
}

// conflict reports what two places share. there is p's directory, or nil when nothing is
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
