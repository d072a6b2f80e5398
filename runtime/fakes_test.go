package runtime

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/internal/control"
	"github.com/osqvisor/osqvisor/internal/record"
	"github.com/osqvisor/osqvisor/stats"
)

func wantMentions(t *testing.T, errs []error, words ...string) {
	t.Helper()
	text := errors.Join(errs...).Error()
	for _, w := range words {
		if !strings.Contains(text, w) {
			t.Errorf("%q is not mentioned in:\n%s", w, text)
		}
	}
}

// life is what a run of a fake instance does: n counts runs from 1.
type life func(ctx context.Context, n int) error

// lasting lives until it is stopped.
func lasting(ctx context.Context, _ int) error {
	<-ctx.Done()
	return nil
}

// dying is a run that was ready and ends by itself after d.
func dying(d time.Duration, cause stats.Cause) life {
	return func(ctx context.Context, _ int) error {
		select {
		case <-time.After(d):
			return &instance.ExitError{Phase: stats.PhaseServe, Cause: cause}
		case <-ctx.Done():
			return nil
		}
	}
}

// failing is a start that fails.
func failing(cause stats.Cause) life {
	return func(context.Context, int) error {
		return &instance.ExitError{Phase: stats.PhaseConnect, Cause: cause}
	}
}

// fakes makes fake instances, all with the same life.
type fakes struct {
	live      life
	liveAs    func(ctx context.Context, id string) error // instead of live, if set
	defaults  []instance.Option
	refuse    error       // of make
	unsent    int         // how many calls of Ship fail
	tablesSet func(n int) // called before SetTables returns, if set

	mu     sync.Mutex
	made   []*fake
	runs   []time.Time
	events []stats.Event
	ground control.Conditions
}

// setGround changes what a start depends on.
func (f *fakes) setGround(c control.Conditions) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ground = c
}

func (f *fakes) plan(id string, own []instance.Option, watch stats.Observer) control.Plan {
	k := realMaker{root: "/nowhere", shared: &control.Shared{}, defaults: f.defaults}
	return k.plan(id, own, watch)
}

func (f *fakes) withDefaults(opts []instance.Option) maker {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.defaults = opts
	return f
}

func (f *fakes) make(_ context.Context, id string, opts []instance.Option, old subject, watch stats.Observer) (subject, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refuse != nil {
		return nil, f.refuse
	}
	in := &fake{fakes: f, id: id, opts: len(opts), watch: watch, shut: make(chan struct{}), plan: f.plan(id, opts, watch)}
	if before, ok := old.(*fake); ok {
		in.rec = before.rec
	} else {
		in.rec = record.New(id, 16)
	}
	f.made = append(f.made, in)
	return in, nil
}

func (f *fakes) check(context.Context, string, []instance.Option) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.refuse
}

func (f *fakes) setRefuse(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refuse = err
}

func (f *fakes) failsToShip() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.unsent--
	return f.unsent >= 0
}

// started gives how many runs there were, and when they began.
func (f *fakes) started() []time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]time.Time(nil), f.runs...)
}

// noteRun gives the number of a run that begins now.
func (f *fakes) noteRun() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.runs = append(f.runs, time.Now())
	return len(f.runs)
}

// of gives the events of type T so far.
func of[T stats.Event](f *fakes) []T {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []T
	for _, e := range f.events {
		if e, ok := e.(T); ok {
			out = append(out, e)
		}
	}
	return out
}

// fake is an instance without a process.
type fake struct {
	fakes *fakes
	id    string
	opts  int
	rec   *record.Recorder
	watch stats.Observer

	mu     sync.Mutex
	live   bool
	closed bool
	shut   chan struct{}
	tables int
	plan   control.Plan
	ship   atomic.Bool
	asleep atomic.Bool
}

func (in *fake) Run(ctx context.Context) error {
	in.mu.Lock()
	if in.closed {
		in.mu.Unlock()
		return instance.ErrClosed
	}
	n := in.fakes.noteRun() // before it is ready, or who waits for that could find no run
	in.live = true
	in.mu.Unlock()
	defer func() {
		in.mu.Lock()
		in.live = false
		in.mu.Unlock()
	}()
	in.Record(ctx, stats.RunStarting{Head: head(in.id)})
	if in.fakes.liveAs != nil {
		return in.fakes.liveAs(ctx, in.id)
	}
	return in.fakes.live(ctx, n)
}

func (in *fake) Ship(ctx context.Context) error {
	if in.fakes.failsToShip() {
		return errors.New("no room")
	}
	in.ship.Store(true)
	defer in.ship.Store(false)
	<-ctx.Done()
	return nil
}

func (in *fake) ships() bool { return in.ship.Load() }

func (in *fake) Settle(context.Context) {}

func (in *fake) Conditions(context.Context) (control.Conditions, error) {
	in.fakes.mu.Lock()
	defer in.fakes.mu.Unlock()
	return in.fakes.ground, nil
}

func (in *fake) Plan() control.Plan {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.plan
}

func (in *fake) Apply(_ context.Context, p control.Plan, _ bool) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.plan = p
	return nil
}

func (in *fake) SetAsleep(asleep bool) { in.asleep.Store(asleep) }

func (in *fake) Close(context.Context) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	switch {
	case in.live:
		return instance.ErrRunning
	case !in.closed:
		in.closed = true
		close(in.shut)
	}
	return nil
}

func (in *fake) isLive() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.live
}

func (in *fake) isClosed() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.closed
}

func (in *fake) Record(ctx context.Context, e stats.Event) {
	if in.isClosed() {
		return
	}
	in.rec.Observe(ctx, e)
	in.fakes.mu.Lock()
	in.fakes.events = append(in.fakes.events, e)
	in.fakes.mu.Unlock()
	if in.watch != nil {
		in.watch.Observe(ctx, e)
	}
}

func (in *fake) AwaitReady(ctx context.Context, until <-chan struct{}) error {
	for {
		in.mu.Lock()
		live, closed := in.live, in.closed
		in.mu.Unlock()
		switch {
		case live:
			return nil
		case closed:
			return instance.ErrClosed
		}
		select {
		case <-time.After(time.Millisecond):
		case <-until:
			return control.ErrAgain
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (in *fake) QueryEach(context.Context, string, func(instance.Row) error) error {
	return nil
}

func (in *fake) Query(context.Context, string) (instance.Rows, error) {
	if in.isClosed() {
		return instance.Rows{}, instance.ErrClosed
	}
	return instance.Rows{}, nil
}

func (in *fake) PushConfig(context.Context) error { return nil }

func (in *fake) SetTables(_ context.Context, tables ...extension.Table) error {
	in.mu.Lock()
	in.tables = len(tables)
	in.mu.Unlock()
	if in.fakes.tablesSet != nil {
		in.fakes.tablesSet(len(tables))
	}
	return nil
}

func (in *fake) Snapshot() stats.Snapshot { return in.rec.Snapshot() }

// newFakeRunner makes a Runner of fake instances.
func newFakeRunner(t *testing.T, live life, opts ...Option) (*Runner, *fakes) {
	t.Helper()
	r, err := New(opts...)
	if err != nil {
		t.Fatal(err)
	}
	f := &fakes{live: live}
	r.maker = f
	return r, f
}

// bubble runs a test in a synctest bubble with one fake instance, "vendor", under
// a Runner that runs until the test ends.
func bubble(t *testing.T, live life, test func(t *testing.T, r *Runner, f *fakes), opts ...Option) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r, f := newFakeRunner(t, live, opts...)
		if err := r.Add("vendor"); err != nil {
			t.Fatal(err)
		}
		stop := running(t, r)
		synctest.Wait()
		test(t, r, f)
		stop()
	})
}

// running runs a Runner until the function it returns is called.
func running(t *testing.T, r *Runner) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	return func() {
		t.Helper()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run returned %v after a requested stop", err)
		}
	}
}

// after lets fake time pass, and everything settle.
func after(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}
