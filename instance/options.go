package instance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/internal/guard"
	"github.com/osqvisor/osqvisor/stats"
)

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

// OptionError is a mistake in an option. New reports all of them at once,
// joined; errors.As finds the first.
type OptionError struct {
	// Option names the option, such as "WithBinary".
	Option string
	// Err says what is wrong with it and what to do.
	Err error
}

// Error names the option and says what is wrong.
func (e *OptionError) Error() string { return e.Option + ": " + e.Err.Error() }

// Unwrap gives the reason.
func (e *OptionError) Unwrap() error { return e.Err }

func optionErrorf(option, format string, args ...any) error {
	return &OptionError{Option: option, Err: fmt.Errorf(format, args...)}
}

// Option sets one thing about an Instance. Options are applied in order; a
// later one wins over an earlier one, except for those that say they add.
type Option func(*options)

// HealthChecker is a host's own test of an instance. It is called after the
// instance's own checks passed, one call at a time, and must return when its
// context ends; the context ends after the health timeout. An error counts as a
// failed check. It may call Query on the instance; PushConfig and SetTables would wait for
// its own end. One that does not return holds up the run's end by WithKillTimeout, no more.
type HealthChecker func(ctx context.Context, in *Instance) error

// Gate bounds how many instances start at once. It is called before a process is
// spawned and blocks until the start may go on, or ctx ends; release is called
// once, when osqueryd has the extension, which is just before ready, or the start has failed.
// One that does not return holds up the run's end by WithKillTimeout, no more.
type Gate func(ctx context.Context) (release func(), err error)

type options struct {
	id string

	binary  string
	checked *Binary
	checks  *BinaryChecks
	ctx     context.Context // of New's executions of the binary
	root    string
	dir     string
	socket  string

	transport extension.Transport
	tables    []extension.Table
	extOpts   []extension.Option
	pace      *extension.EnrollPace
	disk      *extension.DiskBudget

	flags    map[string]string
	env      []string
	watchdog Watchdog
	labels   map[string]string
	hostID   string

	distributed        time.Duration
	configRefresh      time.Duration
	extensionsTimeout  time.Duration
	startTimeout       time.Duration
	replaceTimeout     time.Duration
	registerTimeout    time.Duration
	stopGrace          time.Duration
	killTimeout        time.Duration
	drain              time.Duration
	binaryTimeout      time.Duration
	diskTimeout        time.Duration
	healthInterval     time.Duration
	healthDelay        *time.Duration // nil: as healthInterval
	healthTimeout      time.Duration
	healthFailures     int
	healthChecker      HealthChecker
	queryTimeout       time.Duration
	abandonedQueryWait time.Duration
	observerTimeout    time.Duration
	stderrLines        int
	history            int

	logger      *slog.Logger
	ownLog      bool // nobody else logs by it
	observers   []stats.Observer
	gate        Gate
	predecessor *Instance
	former      []string // directories of predecessors

	clock               clock
	oomKills            func() uint64
	diskHook            func(what string) // for tests, before what may hang with the disk
	noParentDeathSignal bool
	problems            []error
	made                []string // directories that were made for a check, the deepest first
}

// The defaults. Each belongs to the option that its comment names.
const (
	DefaultStartTimeout       = 60 * time.Second // WithStartTimeout
	DefaultExtensionsTimeout  = 20 * time.Second // WithExtensionsTimeout
	DefaultReplaceTimeout     = 90 * time.Second // WithReplaceTimeout
	DefaultRegisterTimeout    = 10 * time.Second // WithRegisterTimeout
	DefaultStopGrace          = 20 * time.Second // WithStopGrace
	DefaultKillTimeout        = 5 * time.Second  // WithKillTimeout
	DefaultDrain              = 2 * time.Second  // WithDrain
	DefaultBinaryTimeout      = 10 * time.Second // WithBinaryTimeout
	DefaultDiskTimeout        = 60 * time.Second // WithDiskTimeout
	DefaultHealthInterval     = 10 * time.Second // WithHealth
	DefaultHealthTimeout      = 5 * time.Second  // WithHealth
	DefaultHealthFailures     = 3                // WithHealth
	DefaultQueryTimeout       = 60 * time.Second // WithQueryTimeout
	DefaultAbandonedQueryWait = 5 * time.Second  // WithAbandonedQueryWait
	DefaultObserverTimeout    = 5 * time.Second  // WithObserverTimeout
	DefaultConfigRefresh      = 5 * time.Minute  // WithConfigRefresh
	DefaultDistributed        = 60 * time.Second // WithDistributed
	DefaultStderrLines        = 40               // WithStderrTail
	DefaultHistory            = 16               // WithHistory
)

func defaults(id string) *options {
	return &options{
		id:                 id,
		checks:             &BinaryChecks{},
		ctx:                context.Background(),
		flags:              map[string]string{},
		labels:             map[string]string{},
		distributed:        DefaultDistributed,
		configRefresh:      DefaultConfigRefresh,
		extensionsTimeout:  DefaultExtensionsTimeout,
		startTimeout:       DefaultStartTimeout,
		replaceTimeout:     DefaultReplaceTimeout,
		registerTimeout:    DefaultRegisterTimeout,
		stopGrace:          DefaultStopGrace,
		killTimeout:        DefaultKillTimeout,
		drain:              DefaultDrain,
		binaryTimeout:      DefaultBinaryTimeout,
		diskTimeout:        DefaultDiskTimeout,
		diskHook:           func(string) {},
		healthInterval:     DefaultHealthInterval,
		clock:              systemClock(),
		oomKills:           oomKills,
		healthTimeout:      DefaultHealthTimeout,
		healthFailures:     DefaultHealthFailures,
		queryTimeout:       DefaultQueryTimeout,
		abandonedQueryWait: DefaultAbandonedQueryWait,
		observerTimeout:    DefaultObserverTimeout,
		stderrLines:        DefaultStderrLines,
		history:            DefaultHistory,
		logger:             slog.New(slog.DiscardHandler),
	}
}

func (o *options) problem(err error) { o.problems = append(o.problems, err) }

func (o *options) validate() error {
	errs := o.problems
	if err := CheckID(o.id); err != nil {
		errs = append(errs, &OptionError{Option: "id", Err: err})
	}
	errs = append(errs, o.checkDurations()...)
	errs = append(errs, o.checkCounts()...)
	errs = append(errs, o.watchdog.check()...)
	errs = append(errs, o.checkEnv()...)
	return errors.Join(errs...)
}

// WithBinary names the osqueryd to run, by absolute path. It is required, unless
// WithCheckedBinary is given.
func WithBinary(path string) Option {
	return func(o *options) { o.binary, o.checked = path, nil }
}

// WithCheckedBinary names an osqueryd that [CheckBinary] has seen, so that many
// instances pay for the check once. Should the file change, it is checked again
// at the next run.
func WithCheckedBinary(b Binary) Option {
	return func(o *options) { o.binary, o.checked = b.Path, &b }
}

// WithRoot names the directory below which the instance has a directory of its
// own, named by its id. It must be absolute; it is made, 0700, if it is not there.
// Either WithRoot or WithDirectory is required.
func WithRoot(dir string) Option { return func(o *options) { o.root = dir } }

// WithDirectory names the instance's own directory, and wins over WithRoot. It must be
// absolute; it is made, 0700, if it is not there. No two instances may share one.
func WithDirectory(dir string) Option { return func(o *options) { o.dir = dir } }

// WithSocket fixes the path of osqueryd's extension socket, or on Windows the
// name of its pipe. Without it a short one is chosen. At most 97 bytes (a pipe's 240), in a
// directory that only this user can enter.
func WithSocket(path string) Option { return func(o *options) { o.socket = path } }

// WithTransport says how the instance reaches its server. One transport may
// serve many instances. Without it the config is empty, logs are counted and
// discarded, and no distributed queries run.
func WithTransport(t extension.Transport) Option {
	return func(o *options) {
		if t == nil {
			o.problem(optionErrorf("WithTransport", "the transport is nil; leave the option out to run without one"))
			return
		}
		o.transport = t
	}
}

// WithTables adds tables of the host's own; those of osquery-go's plugin/table
// will do. Each call adds to the ones before.
func WithTables(tables ...extension.Table) Option {
	return func(o *options) { o.tables = append(o.tables, tables...) }
}

// WithExtension passes options to the instance's extension: batch sizes, queue
// limits, config policy and so on. Each call adds to the ones before. What ties it to the
// instance is a mistake here: its name, directory, node, events, counters and tables, and how long it
// delivers at the end, which WithDrain bounds.
func WithExtension(opts ...extension.Option) Option {
	return func(o *options) { o.extOpts = append(o.extOpts, opts...) }
}

// WithDiskBudget makes the instance's queues part of a budget that instances share. A
// Runner sets its own.
func WithDiskBudget(d *extension.DiskBudget) Option { return func(o *options) { o.disk = d } }

// WithEnrollPace limits the enrolments of all instances that are given the same pace. A
// runtime.Runner sets its own; extension.WithEnrolment, by [WithExtension], overrides it.
func WithEnrollPace(p *extension.EnrollPace) Option { return func(o *options) { o.pace = p } }

// WithFlag passes a flag to osqueryd. The name comes without dashes. Flags that
// the SDK sets itself are refused, as are flags that the binary does not know. A config
// cannot change a flag that was set so.
func WithFlag(name, value string) Option {
	return func(o *options) { o.flags[name] = value }
}

// WithEnv adds variables, as "NAME=value", to osqueryd's environment, which is
// the host's without OSQUERY_*, in checks of the binary too. Each call adds to the ones before.
func WithEnv(vars ...string) Option {
	return func(o *options) { o.env = append(o.env, vars...) }
}

// WithLabels gives the instance words of the host's own, which every transport
// call bears. Each call adds to the ones before.
func WithLabels(labels map[string]string) Option {
	return func(o *options) {
		for k, v := range labels {
			o.labels[k] = v
		}
	}
}

// WithHostIdentifier sets what osqueryd calls this node in its logs, and what the node is
// enrolled as. Servers know nodes by it: it must be another one on each host and for each
// instance. Without it osqueryd uses its instance_id, which it makes with its database and
// keeps in there. When the name changes, the instance enrols again.
func WithHostIdentifier(id string) Option { return func(o *options) { o.hostID = id } }

// WithDistributed sets how often osqueryd asks for distributed queries; 0 turns
// them off. The default is 60 s. Whole seconds.
func WithDistributed(interval time.Duration) Option {
	return func(o *options) { o.distributed = interval }
}

// WithConfigRefresh sets how often osqueryd asks for its config; 0 leaves it to
// PushConfig. The default is 5 minutes. Whole seconds.
func WithConfigRefresh(interval time.Duration) Option {
	return func(o *options) { o.configRefresh = interval }
}

// WithStderrTail sets how many of osqueryd's last lines an ExitError bears, from
// 1 to 1000. Default 40.
func WithStderrTail(lines int) Option { return func(o *options) { o.stderrLines = lines } }

// WithHistory sets how many ended runs a snapshot holds, from 0 to 1000. Default 16. A later
// one, as with an Update, keeps the newest of those that are there.
func WithHistory(runs int) Option { return func(o *options) { o.history = runs } }

// WithLogger sets where the instance, and osqueryd's own words, are logged. Without it
// nothing is. A handler that panics or blocks holds up nobody: after a tenth of a second
// up to 1024 records wait for it, and those that are lost are counted in the log.
func WithLogger(l *slog.Logger) Option {
	return func(o *options) {
		if l == nil {
			o.problem(optionErrorf("WithLogger", "the logger is nil; leave the option out to discard the log"))
			return
		}
		o.logger, o.ownLog = guard.Logger(l)
	}
}

// WithObserver sets who is handed the instance's events. Each call adds one.
func WithObserver(obs stats.Observer) Option {
	return func(o *options) {
		if obs == nil {
			o.problem(optionErrorf("WithObserver", "the observer is nil"))
			return
		}
		o.observers = append(o.observers, obs)
	}
}

// WithPredecessor takes over the snapshot, the history and the counters of an
// earlier instance of the same id. If that had another directory, the lines in its queues are brought along to this one
// before the first run; those that cannot be are announced by a stats.QueueLeft and stay.
func WithPredecessor(old *Instance) Option { return func(o *options) { o.predecessor = old } }

// WithGate bounds how many instances start at once. A Runner sets its own.
func WithGate(g Gate) Option { return func(o *options) { o.gate = g } }

// WithExtensionsTimeout sets how long osqueryd waits, at its start and after a
// new worker, for our extension before it gives up. Default 20 s. Whole seconds.
func WithExtensionsTimeout(d time.Duration) Option {
	return func(o *options) { o.extensionsTimeout = d }
}

// WithStartTimeout bounds a start, from spawn to ready. Default 60 s. Three workers in a row
// that die on the way end it at once, with stats.CauseCrashLoop. An osqueryd that has our
// extension but does not activate its logger, because the config is not there yet, counts as
// ready after half of what is left of the time, 30 s at most.
func WithStartTimeout(d time.Duration) Option { return func(o *options) { o.startTimeout = d } }

// WithReplaceTimeout bounds how long a run waits for osqueryd to bring up a new
// worker before the run is ended. It has to cover osqueryd's own pause before a
// respawn, which grows to some 20 s. Default 90 s.
func WithReplaceTimeout(d time.Duration) Option { return func(o *options) { o.replaceTimeout = d } }

// WithRegisterTimeout bounds one attempt to register the extension. Default 10 s.
func WithRegisterTimeout(d time.Duration) Option { return func(o *options) { o.registerTimeout = d } }

// WithStopGrace sets how long osqueryd has to leave after SIGTERM before it is
// killed; 0 kills at once. Default 20 s, which covers osqueryd's own 15.
func WithStopGrace(d time.Duration) Option { return func(o *options) { o.stopGrace = d } }

// WithKillTimeout bounds the wait for a killed process group to be gone, also for what an
// earlier host left, and at the end of a run for calls of the host's code and for a file
// system that does not answer. Default 5 s.
func WithKillTimeout(d time.Duration) Option { return func(o *options) { o.killTimeout = d } }

// WithDrain bounds the delivery of queued logs when a run is asked to stop. Default 2 s; 0
// delivers nothing more. What is not delivered stays queued on disk.
func WithDrain(d time.Duration) Option { return func(o *options) { o.drain = d } }

// WithBinaryTimeout bounds each execution of the binary that checks it. Default 10 s.
func WithBinaryTimeout(d time.Duration) Option { return func(o *options) { o.binaryTimeout = d } }

// WithDiskTimeout bounds each wait, in New and at the start of a run, for the file system of
// the instance's directory: one that hangs fails the start. It has to cover the recovery
// of full queues on a slow disk. At the end of a run WithKillTimeout bounds all of them
// together. Default 60 s.
func WithDiskTimeout(d time.Duration) Option { return func(o *options) { o.diskTimeout = d } }

// WithHealth sets how often the registration is checked, how long a check may
// take, and how many failures in a row end the run. Defaults 10 s, 5 s and 3. A
// registration that is lost is mended at the first failure. Up to a tenth of the
// interval is added to it, so that the instances of a host are checked in one go.
func WithHealth(interval, timeout time.Duration, failures int) Option {
	return func(o *options) {
		o.healthInterval, o.healthTimeout, o.healthFailures = interval, timeout, failures
	}
}

// WithHealthDelay sets how long after ready the first check comes. Without it that is the
// interval of WithHealth. 0 checks at once.
func WithHealthDelay(d time.Duration) Option {
	return func(o *options) { o.healthDelay = &d }
}

// healthTicks is how many times in an interval checks can be due.
const healthTicks = 10

// firstHealth is the time from ready, which is now, to the first check.
func (o *options) firstHealth(now time.Time) time.Duration {
	if o.healthDelay != nil {
		return *o.healthDelay
	}
	return o.nextHealth(now)
}

// nextHealth is the time from now to the next check. It ends at a tick that all
// instances with the interval have in common: to wake an idle host costs more than
// the check does.
func (o *options) nextHealth(now time.Time) time.Duration {
	tick := o.healthInterval / healthTicks
	if tick <= 0 {
		return o.healthInterval
	}
	due := now.Add(o.healthInterval)
	if past := due.Sub(due.Truncate(tick)); past > 0 {
		due = due.Add(tick - past)
	}
	return due.Sub(now)
}

// WithHealthChecker adds a check of the host's own to the instance's.
func WithHealthChecker(h HealthChecker) Option { return func(o *options) { o.healthChecker = h } }

// WithQueryTimeout bounds a query whose context has no deadline. Default 60 s.
func WithQueryTimeout(d time.Duration) Option { return func(o *options) { o.queryTimeout = d } }

// WithAbandonedQueryWait sets how long the next query waits for the answer of one that
// was given up, before a second connection is opened. Default 5 s; 0 opens
// it at once.
func WithAbandonedQueryWait(d time.Duration) Option {
	return func(o *options) { o.abandonedQueryWait = d }
}

// WithObserverTimeout bounds, at the end of a run and at Close, the wait for observers that
// are slow to take events. Then their context ends, and they have as long again to return.
// Default 5 s.
func WithObserverTimeout(d time.Duration) Option {
	return func(o *options) { o.observerTimeout = d }
}

// WithClock sets the clock by which a sleep of the machine is noticed: it returns a time that
// goes on while the machine sleeps, and running time, which stands still meanwhile. The first
// must not follow the wall clock, which may be set. It is for tests;
// without it the system's two clocks are read.
// It is called before and after every health check, by one goroutine, and must not block.
func WithClock(now func() (always time.Time, running time.Duration)) Option {
	return func(o *options) {
		if now == nil {
			o.problem(optionErrorf("WithClock", "the clock is nil; leave the option out for the system's"))
			return
		}
		o.clock = now
	}
}

// Watchdog is how osqueryd contains itself. The zero value is osqueryd's own
// normal level: the worker may grow by 200 MB and use 10 % of all CPU threads for 12 s.
type Watchdog struct {
	// Disabled runs osqueryd as one process that nothing contains. Queries that
	// run when it dies are then not denylisted by distributed reads either.
	Disabled bool
	// Restrictive lowers osqueryd's own limits to 100 MB and 5 % for 6 s.
	Restrictive bool
	// MemoryMB overrides the limit of growth in MiB; 0 leaves it at the level's.
	MemoryMB int
	// CPUPercent overrides the limit of CPU in percent of all threads, 1 to 100;
	// 0 leaves it at the level's.
	CPUPercent int
	// CPUFor is how long that may last, in whole seconds; 0 leaves it at the level's.
	CPUFor time.Duration
	// Delay is the time after a worker's start in which limits do not count, in
	// whole seconds. 0 means osqueryd's 60 s.
	Delay time.Duration
}

// WithWatchdog sets osqueryd's limits on itself. The watchdog is on without it.
func WithWatchdog(w Watchdog) Option { return func(o *options) { o.watchdog = w } }

func (w Watchdog) check() []error {
	var errs []error
	bad := func(field, format string, args ...any) {
		errs = append(errs, optionErrorf("WithWatchdog: "+field, format, args...))
	}
	if w.MemoryMB < 0 || w.MemoryMB > 1<<20 {
		bad("MemoryMB", "%d is out of range; it must be from 0 to %d", w.MemoryMB, 1<<20)
	}
	if w.CPUPercent < 0 || w.CPUPercent > 100 {
		bad("CPUPercent", "%d is out of range; it must be from 0 to 100", w.CPUPercent)
	}
	for field, d := range map[string]time.Duration{"CPUFor": w.CPUFor, "Delay": w.Delay} {
		if d < 0 || d > day || d%time.Second != 0 {
			bad(field, "%v is out of range; it must be whole seconds from 0 to %v", d, day)
		}
	}
	if w.Disabled && w != (Watchdog{Disabled: true}) {
		bad("Disabled", "limits are set for a watchdog that is off; leave one of the two out")
	}
	return errs
}

// day is the longest that any single wait may be set to: more is a mistake in units.
const day = 24 * time.Hour

type durationRule struct {
	option   string
	value    time.Duration
	min, max time.Duration
	seconds  bool // osqueryd takes whole seconds only
}

// durationRules bound every duration among the options but those of the watchdog.
func (o *options) durationRules() []durationRule {
	return []durationRule{
		{"WithDistributed", o.distributed, 0, day, true},
		{"WithConfigRefresh", o.configRefresh, 0, 7 * day, true},
		{"WithExtensionsTimeout", o.extensionsTimeout, time.Second, time.Hour, true},
		{"WithStartTimeout", o.startTimeout, time.Millisecond, day, false},
		{"WithReplaceTimeout", o.replaceTimeout, time.Millisecond, day, false},
		{"WithRegisterTimeout", o.registerTimeout, time.Millisecond, time.Hour, false},
		{"WithStopGrace", o.stopGrace, 0, time.Hour, false},
		{"WithKillTimeout", o.killTimeout, time.Millisecond, time.Hour, false},
		{"WithDrain", o.drain, 0, time.Hour, false},
		{"WithBinaryTimeout", o.binaryTimeout, time.Millisecond, time.Hour, false},
		{"WithDiskTimeout", o.diskTimeout, time.Millisecond, time.Hour, false},
		{"WithHealth: interval", o.healthInterval, time.Millisecond, day, false},
		{"WithHealth: timeout", o.healthTimeout, time.Millisecond, time.Hour, false},
		{"WithHealthDelay", valueOf(o.healthDelay), 0, day, false},
		{"WithQueryTimeout", o.queryTimeout, time.Millisecond, day, false},
		{"WithObserverTimeout", o.observerTimeout, time.Millisecond, time.Hour, false},
		{"WithAbandonedQueryWait", o.abandonedQueryWait, 0, time.Hour, false},
	}
}

// valueOf gives 0 for what was not set.
func valueOf(d *time.Duration) time.Duration {
	if d == nil {
		return 0
	}
	return *d
}

func (o *options) checkDurations() []error {
	var errs []error
	for _, r := range o.durationRules() {
		switch {
		case r.value < r.min || r.value > r.max:
			errs = append(errs, optionErrorf(r.option, "%v is out of range; it must be from %v to %v", r.value, r.min, r.max))
		case r.seconds && r.value%time.Second != 0:
			errs = append(errs, optionErrorf(r.option, "%v is not a whole number of seconds, which is all osqueryd takes", r.value))
		}
	}
	return errs
}

func (o *options) checkCounts() []error {
	var errs []error
	if o.healthFailures < 1 || o.healthFailures > 1000 {
		errs = append(errs, optionErrorf("WithHealth: failures", "%d is out of range; it must be from 1 to 1000", o.healthFailures))
	}
	if o.stderrLines < 1 || o.stderrLines > 1000 {
		errs = append(errs, optionErrorf("WithStderrTail", "%d is out of range; it must be from 1 to 1000", o.stderrLines))
	}
	if o.history < 0 || o.history > 1000 {
		errs = append(errs, optionErrorf("WithHistory", "%d is out of range; it must be from 0 to 1000", o.history))
	}
	return errs
}

func (o *options) checkEnv() []error {
	var errs []error
	for _, kv := range o.env {
		name, _, ok := strings.Cut(kv, "=")
		switch {
		case !ok || name == "" || strings.ContainsRune(kv, 0):
			errs = append(errs, optionErrorf("WithEnv", "%q is not of the form NAME=value", kv))
		case strings.HasPrefix(strings.ToUpper(name), "OSQUERY_"):
			errs = append(errs, optionErrorf("WithEnv",
				"%s: variables that begin with OSQUERY_ change what osqueryd is, and are not passed on", name))
		}
	}
	return errs
}
