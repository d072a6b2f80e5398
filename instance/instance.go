package instance

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/internal/control"
	"github.com/osqvisor/osqvisor/internal/emit"
	"github.com/osqvisor/osqvisor/internal/guard"
	"github.com/osqvisor/osqvisor/internal/plugin"
	"github.com/osqvisor/osqvisor/internal/record"
	"github.com/osqvisor/osqvisor/internal/thriftconn"
	"github.com/osqvisor/osqvisor/stats"
)

// extensionName is what osqueryd knows our extension and its plugins by.
const extensionName = "osqvisor"

// Instance is one osqueryd identity, living through many runs. All methods are safe for
// concurrent use, and may be called from the host's callbacks; Run and Close would deadlock in
// those of the same instance.
type Instance struct {
	o     *options                // of New; what an update changes without a new osqueryd is in live
	live  atomic.Pointer[options] // the newest
	paths paths
	// transport is what the extension calls.
	transport sharedTransport
	log       *slog.Logger
	logs      *guard.LogSwitch // log's handler
	rec       *record.Recorder
	emitter   *emit.Emitter
	ext       *plugin.Extension
	queries   *thriftconn.QueryQueue
	requests  chan request // to the goroutine of the current run

	shipping  chan struct{} // holds a token while somebody delivers
	pushing   chan struct{} // holds a token while somebody pushes a config, from its fetch on
	looking   chan struct{} // holds a token while Conditions waits for the disk
	ended     chan struct{} // closed by Close
	dirLock   dirLock
	hostCheck hostCheck
	logging   loggerCalls
	denied    denied

	tablesSet atomic.Uint64 // counts the calls of SetTables

	mu       sync.Mutex
	stopBy   time.Time // when a stop that was requested has to be over
	sleep    sleepState
	running  bool
	closed   bool
	binary   Binary
	identity string          // osqueryd's instance_id, as far as it could be read
	current  *run            // nil between runs
	former   []string        // directories of predecessors whose queues are still to be brought along
	leftover <-chan struct{} // closed at the end of a delivery that a run left behind; nil when none did
	changed  chan struct{}   // closed and made anew whenever readiness changes
}

// New makes an instance. It checks every option and reports all mistakes at once, each as an
// *OptionError; it leaves nothing behind then. It makes the instance's directory and runs the
// binary for its version, and starts nothing else.
func New(id string, opts ...Option) (*Instance, error) {
	o := defaults(id)
	for i, opt := range opts {
		if opt == nil {
			o.problem(optionErrorf("New", "option %d is nil", i))
			continue
		}
		opt(o)
	}
	if o.settings.Plan != nil {
		o.settings.Plan(plan{o})
		return nil, nil //nolint:nilnil // nobody but a Runner requests a plan
	}
	ctx, cancel := context.WithTimeoutCause(o.ctx, o.checkBound(), errDiskHangs)
	defer cancel()
	var in *Instance
	err := guard.Call(ctx, flightEnds, func() (err error) {
		in, err = o.build()
		return err
	}, o.unmake)
	if err != nil {
		return nil, fmt.Errorf("instance %q: %w", id, err)
	}
	if supervise := o.settings.Supervise; supervise != nil && in != nil {
		supervise(&engine{in})
	}
	return in, nil
}

// build makes the instance of checked options.
func (o *options) build() (_ *Instance, err error) {
	defer func() {
		if err != nil {
			o.unmake()
		}
	}()
	o.diskHook("making it")
	binary, err := o.check()
	if err != nil {
		return nil, err
	}
	if o.settings.DryRun {
		o.unmake()
		return nil, nil //nolint:nilnil // nobody but a Runner requests a dry run
	}
	rec := o.recorder()
	logs := guard.NewLogSwitch(o.logger)
	in := &Instance{
		o: o, paths: o.layout(), binary: binary,
		logs: logs, log: slog.New(logs).With("instance", o.id),
		rec:      rec,
		requests: make(chan request),
		shipping: make(chan struct{}, 1), pushing: make(chan struct{}, 1), looking: make(chan struct{}, 1), ended: make(chan struct{}),
		hostCheck: newHostCheck(),
		changed:   make(chan struct{}),
	}
	in.live.Store(o)
	in.transport.set(o.transport)
	in.former = o.formerDirs(in.paths.dir)
	if err := in.paths.shortSocket(); err != nil {
		return nil, err
	}
	in.emitter = emit.New(in.rec, o.observers...)
	in.queries = in.newQueryQueue()
	if in.ext, err = in.newExtension(); err != nil {
		return nil, err
	}
	rec.SetHistory(o.diagnostics.history())
	return in, nil
}

// recorder returns the predecessor's, or a new one.
func (o *options) recorder() *record.Recorder {
	var old *Instance
	if e, ok := o.settings.Predecessor.(*engine); ok {
		old = e.in
	}
	if old != nil && old.o.id == o.id {
		o.former = append(old.formerDirs(), old.place().dir)
	}
	o.settings.Predecessor = nil // or instances would keep all that were before them in memory
	if old != nil && old.o.id == o.id {
		return old.rec // New sets its history when nothing can fail any more
	}
	return record.New(o.id, o.diagnostics.history())
}

// formerDirs returns the directories of predecessors whose queues are to be brought along to dir.
func (o *options) formerDirs(dir string) []string {
	return slices.DeleteFunc(o.former, func(former string) bool { return former == dir })
}

// ID returns the instance's id.
func (in *Instance) ID() string { return in.o.id }

// Directory returns the instance's own directory.
func (in *Instance) Directory() string { return in.paths.dir }

// Socket returns the path of osqueryd's extension socket. Whoever can open it can
// read the node key and change the config: it is a secret.
func (in *Instance) Socket() string { return in.place().socket }

func (in *Instance) place() paths {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.paths
}

// Binary returns the osqueryd of the current run, or of the next one.
func (in *Instance) Binary() Binary {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.binary
}

// Snapshot returns a copy of the instance's state, counters and newest runs.
func (in *Instance) Snapshot() stats.Snapshot {
	s := in.rec.Snapshot()
	s.Queues, s.Calls = in.ext.Delivery()
	s.Denylisted = in.denied.list()
	return s
}

// settleWaits is how many waits of the given time settleWithin has at most: for the
// observers, for them once more after their context ended, and for the log.
const settleWaits = 3

func (in *Instance) settleWithin(ctx context.Context, patience time.Duration) {
	if err := in.emitter.Flush(ctx, patience); err != nil {
		in.log.Error("not every event was delivered", "err", err)
	}
	if o := in.live.Load(); o.ownLog {
		guard.SettleLog(o.logger, patience)
	}
}

// closeWait is Timeouts.Observers, or half of what ctx leaves: observers may take
// twice as long.
func (in *Instance) closeWait(ctx context.Context) time.Duration {
	end, ok := ctx.Deadline()
	if !ok {
		return in.live.Load().timeouts.Observers
	}
	return max(0, min(in.live.Load().timeouts.Observers, time.Until(end)/2))
}

// Close releases what the instance holds between runs. It waits, until ctx's deadline, for
// observers; after it returned nil, none is called. It fails with ErrRunning while a run is under
// way, and with ErrSupervised for an instance of a Runner, and does nothing the second time.
func (in *Instance) Close(ctx context.Context) error {
	if in.supervised() {
		return fmt.Errorf("instance %q: %w", in.o.id, ErrSupervised)
	}
	return in.closeOnce(ctx)
}

func (in *Instance) closeOnce(ctx context.Context) error {
	in.awaitLeftover(ctx)
	if first, err := in.shut(); !first {
		return err
	}
	err := errors.Join(in.queries.Close(), in.closeExtension(ctx))
	in.settleWithin(ctx, in.closeWait(ctx))
	return errors.Join(err, in.emitter.Close(ctx))
}

// setLeftover notes a delivery that the end of a run did not wait for any longer.
func (in *Instance) setLeftover(ended <-chan struct{}) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.leftover = ended
}

// awaitLeftover waits for such a delivery: it holds the directory.
func (in *Instance) awaitLeftover(ctx context.Context) {
	in.mu.Lock()
	ended := in.leftover
	in.mu.Unlock()
	if ended == nil {
		return
	}
	select {
	case <-ended:
	case <-ctx.Done():
	}
}

// closeExtension waits for the disk until ctx ends, and no longer than Timeouts.Disk.
func (in *Instance) closeExtension(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, in.live.Load().timeouts.Disk, errDiskHangs)
	defer cancel()
	closed := make(chan error, 1)
	in.dirLock.disk.Go(func() {
		in.o.diskHook("closing the extension")
		closed <- in.ext.Close()
	})
	select {
	case err := <-closed:
		return err
	case <-ctx.Done():
		return fmt.Errorf("the queues are not closed yet: %w", context.Cause(ctx))
	}
}

// shut lets nothing start any more, and wakes who waits.
func (in *Instance) shut() (first bool, err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	busy := fmt.Errorf("instance %q: %w", in.o.id, ErrRunning)
	switch {
	case in.closed:
		return false, nil
	case in.running:
		return false, busy
	}
	select {
	case in.shipping <- struct{}{}: // kept for good
	default:
		return false, busy
	}
	in.closed = true
	close(in.ended)
	in.wake()
	return true, nil
}

// node returns who calls the transport.
func (in *Instance) node() extension.Node {
	in.mu.Lock()
	defer in.mu.Unlock()
	n := extension.Node{
		Instance:       in.o.id,
		OsqueryVersion: in.binary.Version,
		HostIdentifier: cmp.Or(in.o.hostID, in.identity),
		Labels:         maps.Clone(in.live.Load().labels),
	}
	if in.current != nil {
		n.Run = in.current.id
	}
	return n
}

// head begins an event of now.
func (in *Instance) head() stats.Head {
	h := stats.Head{Time: time.Now(), Instance: in.o.id}
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.current != nil {
		h.Run = in.current.id
	}
	return h
}

func (in *Instance) emit(e stats.Event) { in.emitter.Emit(context.Background(), e) }

func (in *Instance) newExtension() (*plugin.Extension, error) {
	s := in.o.extensionSettings()
	s.Name, s.Dir, s.Node, s.Head, s.Emit = extensionName, in.paths.dir, in.node, in.head, in.emit
	s.Logger, s.Counters = in.log, in.rec.Counters()
	s.HostDetails, s.Discover = in.hostDetails, in.discover
	s.LateConfig = func(map[string]string) { in.pushLate() }
	s.Activated = in.noteActivation
	s.DeferredQueues = true // two instances of one directory take turns; see dirLock
	if in.o.transport != nil {
		s.Transport = in.transport.as()
	}
	return plugin.New(s)
}

// Errors that the methods of an Instance return, alone or wrapped.
var (
	// ErrRunning reports that a run of this instance is under way already.
	ErrRunning = errors.New("the instance is running already")
	// ErrNotRunning reports that no run is under way.
	ErrNotRunning = errors.New("the instance is not running")
	// ErrParked reports that the supervisor does not restart the instance for now.
	ErrParked = errors.New("the instance is parked")
	// ErrClosed reports that the instance was closed.
	ErrClosed = errors.New("the instance is closed")
	// ErrSupervised reports that a Runner runs and closes this instance, and nobody else may.
	ErrSupervised = errors.New("the instance belongs to a Runner")
)

// ParkedError reports that an instance is parked: it failed too often, or for a cause
// that a new start does not change. errors.Is finds both ErrParked and ErrNotRunning in it.
type ParkedError struct {
	// Instance is the instance's id.
	Instance string
	// Cause is why its last run ended; empty when the history does not hold it.
	Cause stats.Cause
	// LastError is the text of its last failure.
	LastError string
}

// Error names the instance, the cause and the last failure.
func (e *ParkedError) Error() string {
	s := fmt.Sprintf("instance %q: %v", e.Instance, ErrParked)
	if e.Cause != "" {
		s += " (" + string(e.Cause) + ")"
	}
	if e.LastError != "" {
		s += "; its last failure: " + e.LastError
	}
	return s
}

// Is reports true for ErrParked and ErrNotRunning.
func (e *ParkedError) Is(target error) bool { return target == ErrParked || target == ErrNotRunning }

// setCurrent makes r the current run, or nil the end of it.
func (in *Instance) setCurrent(r *run) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.current = r
	in.wake()
}

// wake is called under the lock, after something that a waiter looks at changed.
func (in *Instance) wake() {
	close(in.changed)
	in.changed = make(chan struct{})
}

// WaitReady waits until the current run is ready, or one that is started meanwhile. It fails with
// ErrParked, ErrClosed or ctx's cause; the text has the instance's state and last failure. It can
// deadlock in an observer until ctx ends.
func (in *Instance) WaitReady(ctx context.Context) error {
	return in.awaitReady(ctx, nil, func() bool { return in.rec.State() == stats.StateParked })
}

// awaitReady is WaitReady until the channel is closed, which is control.ErrAgain, and with
// the caller's notion of what is parked.
func (in *Instance) awaitReady(ctx context.Context, until <-chan struct{}, parked func() bool) error {
	for {
		in.mu.Lock()
		ready, closed, changed := in.current != nil && in.current.announced, in.closed, in.changed
		in.mu.Unlock()
		switch {
		case ready:
			return nil
		case closed:
			return fmt.Errorf("instance %q: %w", in.o.id, ErrClosed)
		case parked():
			return in.parked()
		}
		select {
		case <-changed:
		case <-until:
			return control.ErrAgain
		case <-ctx.Done():
			return in.notReady(context.Cause(ctx))
		}
	}
}

// isReady reports whether the current run serves requests.
func (in *Instance) isReady() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.current != nil && in.current.ready
}

// notRunning returns ErrNotRunning with the instance's state.
func (in *Instance) notRunning() error {
	state := in.rec.State()
	if state == stats.StateParked {
		return in.parked()
	}
	return fmt.Errorf("instance %q is %s: %w", in.o.id, state, ErrNotRunning)
}

func (in *Instance) parked() error {
	s := in.Snapshot()
	e := &ParkedError{Instance: in.o.id, LastError: s.LastError}
	if len(s.History) > 0 {
		e.Cause = s.History[0].Cause
	}
	return e
}

// notReady returns why a wait ended.
func (in *Instance) notReady(why error) error {
	s := in.Snapshot()
	if s.LastError == "" {
		return fmt.Errorf("instance %q is %s, not ready: %w", in.o.id, s.State, why)
	}
	return fmt.Errorf("instance %q is %s, not ready: %w; its last failure: %s", in.o.id, s.State, why, s.LastError)
}

// RunID returns the id of the current run; it is empty between runs.
func (in *Instance) RunID() string {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.current == nil {
		return ""
	}
	return in.current.id
}

// WaitRunOver waits until the run of that id is not the current one. It fails with ctx's cause.
func (in *Instance) WaitRunOver(ctx context.Context, run string) error {
	for run != "" {
		in.mu.Lock()
		over, changed := in.current == nil || in.current.id != run, in.changed
		in.mu.Unlock()
		if over {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("instance %q is still stopping: %w", in.o.id, context.Cause(ctx))
		}
	}
	return nil
}

// PID returns the process that we started, the watcher when the watchdog is on; 0 between runs.
func (in *Instance) PID() int {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.current == nil || in.current.proc == nil {
		return 0
	}
	return in.current.proc.PID()
}

// SetTables replaces the host's tables, at once when osqueryd runs and else at its next start. A
// query for one of them can fail meanwhile. It reports all mistakes in the tables at once. It would
// deadlock in Health.Check.
func (in *Instance) SetTables(ctx context.Context, tables ...extension.Table) error {
	if err := in.ext.SetTables(tables...); err != nil {
		return err
	}
	in.tablesSet.Add(1) // a run that is not ready looks at this when it is
	err := in.onRun(ctx, false, func(ctx context.Context, r *run) error { return r.exchangeTables(ctx) })
	if errors.Is(err, ErrNotRunning) {
		return nil
	}
	return err
}

// PushConfig fetches the config and pushes it to osqueryd now instead of at its next refresh, unless
// osqueryd has it already. An invalid config does not reach osqueryd: it is an error, such as
// [extension.ErrConfigSetAside] for one that osqueryd died with, and an event. It fails with
// ErrNotRunning unless the instance is ready. It would deadlock in Health.Check and in the
// transport's Config.
func (in *Instance) PushConfig(ctx context.Context) error {
	if !in.isReady() { // what an earlier osqueryd had does not count
		return in.notRunning()
	}
	release, err := in.lockPush(ctx)
	if err != nil {
		return err
	}
	defer release()
	if _, changed, err := in.ext.FetchConfig(ctx); err != nil || !changed {
		return err
	}
	return in.pushNewest(ctx, false)
}

// caughtPanic reports a panic behind osqueryd's calls that nothing nearer caught.
func (in *Instance) caughtPanic(value any, stack []byte) {
	in.caughtPanicIn("extension", value, stack)
}

func (in *Instance) caughtPanicIn(where string, value any, stack []byte) {
	in.emit(stats.PanicCaught{Head: in.head(), Where: where, Value: fmt.Sprint(value), Stack: string(stack)})
}
