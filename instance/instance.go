package instance

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/internal/emit"
	"github.com/osqvisor/osqvisor/internal/guard"
	"github.com/osqvisor/osqvisor/internal/thriftconn"
	"github.com/osqvisor/osqvisor/stats"
)

// extensionName is what osqueryd knows our extension and its plugins by.
const extensionName = "osqvisor"

// Instance is one osqueryd identity, living through many runs. It owns its
// extension, its process, its connections, its health and its stats. All methods
// are safe for concurrent use, and may be called from tables, transports, observers and
// health checkers, except that Run, Close and Ship must not be called from those of the
// same instance, which would wait for themselves; nor must what other methods name.
type Instance struct {
	o       *options
	paths   paths
	log     *slog.Logger
	rec     *stats.Recorder
	emitter *emit.Emitter
	ext     *extension.Extension
	queries *thriftconn.QueryQueue
	asks    chan ask // requests to the goroutine of the current run

	shipping chan struct{} // holds a token while somebody ships
	pushing  chan struct{} // holds a token while somebody pushes a config, from its fetch on
	looking  chan struct{} // holds a token while Conditions waits for the disk
	ended    chan struct{} // closed by Close
	use      use
	checker  hostChecker
	logging  loggerCalls
	denied   denied

	tablesAsked atomic.Uint64 // counts the calls of SetTables

	mu       sync.Mutex
	nap      nap
	running  bool
	closed   bool
	binary   Binary
	identity string        // what osqueryd calls itself in its logs, as far as it could be asked
	current  *run          // nil between runs
	former   []string      // directories of predecessors whose queues are still to be brought along
	changed  chan struct{} // closed and made anew whenever readiness changes
}

// New makes an instance and its extension. It checks every option and reports
// all mistakes at once, each as an *OptionError, and leaves nothing behind then; it makes the
// instance's directory, and it runs the binary to learn its version, unless
// WithCheckedBinary is given. It starts nothing else.
func New(id string, opts ...Option) (*Instance, error) {
	o := defaults(id)
	for i, opt := range opts {
		if opt == nil {
			o.problem(optionErrorf("New", "option %d is nil", i))
			continue
		}
		opt(o)
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
	rec, err := o.recorder()
	if err != nil {
		return nil, err
	}
	in := &Instance{
		o: o, paths: o.layout(), binary: binary,
		log:      o.logger.With("instance", o.id),
		rec:      rec,
		asks:     make(chan ask),
		shipping: make(chan struct{}, 1), pushing: make(chan struct{}, 1), looking: make(chan struct{}, 1), ended: make(chan struct{}),
		checker: newHostChecker(),
		changed: make(chan struct{}),
	}
	in.former = o.formerDirs(in.paths.dir)
	if err := in.paths.shortSocket(); err != nil {
		return nil, err
	}
	in.emitter = emit.New(context.Background(), 0, in.rec, o.observers...)
	in.queries = in.newQueryQueue()
	if in.ext, err = in.newExtension(); err != nil {
		return nil, err
	}
	rec.SetHistory(o.history)
	return in, nil
}

// check holds all that can be known before a start.
func (o *options) check() (Binary, error) {
	errs := []error{o.validate(), o.checkExtension()}
	errs = append(errs, o.checkPaths()...)
	flagErrs := o.checkFlags()
	errs = append(errs, flagErrs...)
	b, err := o.checkedBinary()
	switch {
	case errors.Is(err, errNotTried):
	case err != nil:
		errs = append(errs, &OptionError{Option: "WithBinary", Err: err})
	case len(flagErrs) == 0: // a refused flag may do anything, so none is tried
		errs = append(errs, o.askFlags(o.ctx, b))
	}
	return b, errors.Join(errs...)
}

// errNotTried stands for a mistake that is told of elsewhere.
var errNotTried = errors.New("not tried")

func (o *options) checkedBinary() (Binary, error) {
	if o.binaryTimeout <= 0 || len(o.checkEnv()) > 0 { // it could make the binary something else
		return Binary{}, errNotTried
	}
	if o.checked != nil && o.checked.Version != "" && o.checked.unchanged() {
		return *o.checked, nil
	}
	return o.checkBinary(o.ctx, o.binary)
}

// recorder gives the predecessor's, or a new one.
func (o *options) recorder() (*stats.Recorder, error) {
	old := o.predecessor
	if old != nil && old.o.id == o.id {
		o.former = append(old.formerDirs(), old.place().dir)
	}
	o.predecessor = nil // or instances would keep all that were before them in memory
	if old != nil && old.o.id == o.id {
		return old.rec, nil // New sets its history when nothing can fail any more
	}
	return stats.NewRecorder(o.id, stats.WithHistory(o.history))
}

// formerDirs returns the directories of predecessors whose queues are to be brought along to dir.
func (o *options) formerDirs(dir string) []string {
	return slices.DeleteFunc(o.former, func(former string) bool { return former == dir })
}

// ID gives the instance's id.
func (in *Instance) ID() string { return in.o.id }

// Directory gives the instance's own directory.
func (in *Instance) Directory() string { return in.paths.dir }

// Socket gives the path of osqueryd's extension socket. Whoever can open it can
// read the node key and change the config: it is a secret.
//
// It stays the same from run to run, unless it lies outside of the instance's directory, where
// its path would be too long, and another user took its place meanwhile.
func (in *Instance) Socket() string { return in.place().socket }

func (in *Instance) place() paths {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.paths
}

// Binary gives the osqueryd that the next run starts, or the current one started.
func (in *Instance) Binary() Binary {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.binary
}

// Snapshot gives the instance's state, counters and newest runs, what waits in its queues, how
// its server answers, and which queries are denylisted. It is a copy.
func (in *Instance) Snapshot() stats.Snapshot {
	s := in.rec.Snapshot()
	s.Queues, s.Calls = in.ext.Delivery()
	s.Denylisted = in.denied.list()
	return s
}

// Record hands an event about the instance to its recorder and observers, in
// order with its own. It is for whoever supervises the instance.
func (in *Instance) Record(ctx context.Context, e stats.Event) {
	in.emitter.Emit(ctx, e)
	in.mu.Lock()
	defer in.mu.Unlock()
	in.wake() // it may have been parked, which ends WaitReady
}

// Settle waits until every event so far was handed to the observers. When that takes
// longer than WithObserverTimeout allows, their context ends and what waits is dropped,
// which is logged; when one does not return then either, for as long again, it is left
// to itself. A run that was asked to end, and Close, end with it. Called from an observer of the instance it
// does nothing.
func (in *Instance) Settle(ctx context.Context) { in.settleWithin(ctx, in.o.observerTimeout) }

func (in *Instance) settleWithin(ctx context.Context, patience time.Duration) {
	if err := in.emitter.Settle(ctx, patience); err != nil {
		in.log.Error("not every event was delivered", "err", err)
	}
	if in.o.ownLog {
		guard.SettleLog(in.log, patience)
	}
}

// closePatience is WithObserverTimeout, or half of what ctx leaves: observers may take
// twice as long.
func (in *Instance) closePatience(ctx context.Context) time.Duration {
	end, ok := ctx.Deadline()
	if !ok {
		return in.o.observerTimeout
	}
	return max(0, min(in.o.observerTimeout, time.Until(end)/2))
}

// Close gives back what the instance holds between runs. It fails with
// ErrRunning while a run or a Ship is under way, and does nothing the second time. After
// it returned nil, no observer is called. It waits for observers that run as
// Settle does, and no longer than until ctx's deadline.
func (in *Instance) Close(ctx context.Context) error {
	if first, err := in.shut(); !first {
		return err
	}
	err := errors.Join(in.queries.Close(), in.closeExtension(ctx))
	in.settleWithin(ctx, in.closePatience(ctx))
	return errors.Join(err, in.emitter.Close(ctx))
}

// closeExtension waits for the disk until ctx ends, and no longer than WithDiskTimeout.
func (in *Instance) closeExtension(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, in.o.diskTimeout, errDiskHangs)
	defer cancel()
	closed := make(chan error, 1)
	in.use.disk.Go(func() {
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

// node says who is asking.
func (in *Instance) node() extension.Node {
	in.mu.Lock()
	defer in.mu.Unlock()
	n := extension.Node{
		Instance:       in.o.id,
		OsqueryVersion: in.binary.Version,
		HostIdentifier: cmp.Or(in.o.hostID, in.identity),
		Labels:         maps.Clone(in.o.labels),
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

func (in *Instance) newExtension() (*extension.Extension, error) {
	opts := []extension.Option{
		extension.WithLogger(in.log),
		extension.WithHostDetails(in.hostDetails),
		extension.WithDiscovery(in.discover),
		extension.WithLateConfig(func(map[string]string) { in.pushLate() }),
		extension.WithDrain(0), // the stop of a run drains, and bounds it
	}
	opts = append(opts, in.o.hostExtension()...)
	return extension.New(append(opts, // what follows ties it to the instance
		extension.WithName(extensionName),
		extension.WithNode(in.node),
		extension.WithDir(in.paths.dir),
		extension.WithEmit(in.emit),
		extension.WithHead(in.head),
		extension.WithCounters(in.rec.Counters()),
		extension.WithOnActivated(in.noteActivation),
		extension.WithDeferredQueues(), // two instances of one directory take turns; see use
	)...)
}

// hostExtension is what the host says of the extension.
func (o *options) hostExtension() []extension.Option {
	opts := []extension.Option{
		extension.WithTables(o.tables...),
		extension.WithEnrolment(extension.Enrolment{Pace: o.pace}), extension.WithDiskBudget(o.disk),
		extension.WithOwnedOptions(sortedKeys(o.flags)...), // a config wins over the command line, if it is let
	}
	if o.transport != nil {
		opts = append(opts, extension.WithTransport(o.transport))
	}
	return append(opts, extension.HostOptions(o.extOpts...))
}

// checkExtension holds the host's options against the extension's own rules.
func (o *options) checkExtension() error {
	opts := []extension.Option{
		extension.WithDir(os.TempDir()), // checked elsewhere
		extension.WithNode(func() extension.Node { return extension.Node{Instance: o.id} }),
	}
	if err := extension.Check(append(opts, o.hostExtension()...)...); err != nil {
		return &OptionError{Option: "WithExtension, WithTables", Err: err}
	}
	return nil
}
