package runtime

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/osqvisor/osqvisor/internal/control"
	"github.com/osqvisor/osqvisor/internal/delivery"
	"github.com/osqvisor/osqvisor/internal/guard"
	"github.com/osqvisor/osqvisor/internal/plugin"
)

// Runner supervises a set of instances. All methods are safe for concurrent use,
// before, during and after Run. From an observer, a transport or a table of an
// instance, every method may be called except those that wait for that same
// instance: Remove, Restart, Update and WaitReady, and from a table Query, which waits for
// the query that asks the table.
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

// New makes a Runner. It checks every option, of the instances too, and reports
// all mistakes at once. It makes the directories of the instances, and runs the
// binary for its version and its flags; it starts nothing else, and nothing has to be given
// back when the Runner is not wanted any more.
func New(opts ...Option) (*Runner, error) {
	r, err := plan(opts)
	wrong := err != nil
	if err = errors.Join(err, r.addAll(wrong)); err != nil {
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

// addAll adds the instances that New was given. In a dry run it only reports every mistake.
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

// Run starts every instance of the set, parked ones too, and every one that is added
// meanwhile, and keeps them alive until ctx ends. It returns nil after that, and only
// when every process, goroutine, socket, pidfile and open file of all instances is gone;
// no callback of the host runs afterwards, unless the host calls a method that has one.
// No failure of an instance ends it. A second call at the same time fails with
// ErrRunning; after it returned, it may be called again.
//
// It returns within the longest instance.Timeouts.Stop of its instances, and 10 s more
// where an instance is closed meanwhile. Code of the host that does not return although its context ended,
// and a file system that does not answer, are left to themselves then. The checks of an Add
// or an Update under way are not waited for; what follows from them is.
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

// join is called under the lock, which it gives up while it waits.
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

// settleAll is called under the lock, which it gives up while it waits for the observers
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

// settleLog is called under the lock, which it gives up while it waits for the host's log
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
