package instance

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/internal/control"
	"github.com/osqvisor/osqvisor/internal/guard"
	"github.com/osqvisor/osqvisor/internal/plugin"
	"github.com/osqvisor/osqvisor/stats"
)

// check checks all that can be known before a start.
func (o *options) check() (Binary, error) {
	errs := []error{o.validate(), o.checkExtension()}
	errs = append(errs, o.checkPaths()...)
	flagErrs := o.checkFlags()
	errs = append(errs, flagErrs...)
	b, err := o.checkedBinary()
	switch {
	case errors.Is(err, errSkipped):
	case err != nil:
		errs = append(errs, &OptionError{Option: "WithBinary", Err: err})
	case len(flagErrs) == 0: // a refused flag may do anything, so none is tried
		errs = append(errs, o.probeHostFlags(o.ctx, b))
	}
	return b, errors.Join(errs...)
}

// errSkipped stands for a mistake that is reported elsewhere.
var errSkipped = errors.New("not tried")

// extensionSettings is what the host sets of the extension.
func (o *options) extensionSettings() plugin.Settings {
	s := plugin.Settings{
		Transport: o.transport, Tables: o.tables, Config: o.config, Logs: o.logs, Distributed: o.distributed,
		Enrolment: o.enrolment, Keys: o.keys, Pace: o.settings.Pace, Budget: o.settings.Disk,
	}
	// A config wins over the command line, if it is let.
	s.Config.Owned = append(sortedKeys(o.flags), o.config.Owned...)
	return s
}

// checkExtension checks the host's options by the extension's own rules.
func (o *options) checkExtension() error {
	s := o.extensionSettings()
	s.Dir = os.TempDir() // checked elsewhere
	s.Node = func() extension.Node { return extension.Node{Instance: o.id} }
	var errs []error
	for _, err := range s.Check() {
		var wrong *plugin.SettingError
		if errors.As(err, &wrong) {
			err = &OptionError{Option: wrong.Option, Err: wrong.Err}
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// OptionError is a mistake in an option. New joins all of them; errors.As finds the first.
type OptionError struct {
	// Option names the option, such as "WithBinary".
	Option string
	// Err is what is wrong with it and what to do.
	Err error
}

// Error names the option and what is wrong.
func (e *OptionError) Error() string { return e.Option + ": " + e.Err.Error() }

// Unwrap returns Err.
func (e *OptionError) Unwrap() error { return e.Err }

func optionErrorf(option, format string, args ...any) error {
	return &OptionError{Option: option, Err: fmt.Errorf(format, args...)}
}

// Option sets one thing about an Instance. Options are applied in order; a
// later one replaces an earlier one, except for those that are documented to add.
type Option func(*options)

type options struct {
	id string

	binary string
	checks *binaryChecks
	ctx    context.Context // of New's executions of the binary
	root   string
	dir    string
	socket string

	transport extension.Transport
	tables    []extension.Table

	config      extension.Config
	logs        extension.Logs
	distributed extension.Distributed
	enrolment   extension.Enrolment
	keys        extension.NodeKeyStore

	flags    map[string]string
	env      []string
	watchdog Watchdog
	labels   map[string]string
	hostID   string

	timeouts    Timeouts
	health      Health
	queries     Queries
	diagnostics Diagnostics

	logger     *slog.Logger // hostLogger, contained
	hostLogger *slog.Logger
	ownLog     bool // nobody else logs by it
	observers  []stats.Observer
	settings   control.Settings
	former     []string // directories of predecessors

	clock               control.Clock
	oomKills            func() uint64
	diskHook            func(what string) // for tests, before what may hang with the disk
	activated           func(what string) // for tests, when osqueryd first called a plugin
	noParentDeathSignal bool
	problems            []error
	made                []string // directories that were made for a check, the deepest first
}

func defaults(id string) *options {
	return &options{
		id:          id,
		checks:      &binaryChecks{},
		ctx:         context.Background(),
		flags:       map[string]string{},
		labels:      map[string]string{},
		diskHook:    func(string) {},
		activated:   func(string) {},
		clock:       systemClock(),
		oomKills:    oomKills,
		timeouts:    Timeouts{}.withDefaults(),
		health:      Health{}.withDefaults(),
		queries:     Queries{}.withDefaults(),
		diagnostics: Diagnostics{}.withDefaults(),
		logger:      slog.New(slog.DiscardHandler),
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

// WithBinary names the osqueryd to run, by absolute path. It is required.
func WithBinary(path string) Option {
	return func(o *options) { o.binary = path }
}

// WithRoot sets the directory below which the instance has its own, named by its id. It must be
// absolute; it is made, 0700, if it does not exist. WithRoot or WithDirectory is required.
func WithRoot(dir string) Option { return func(o *options) { o.root = dir } }

// WithDirectory sets the instance's own directory, whatever WithRoot is. It must be absolute; it is
// made, 0700, if it does not exist. No two instances may share one.
func WithDirectory(dir string) Option { return func(o *options) { o.dir = dir } }

// WithSocket sets the path of osqueryd's extension socket, of at most 97 bytes, in a directory that
// only this user can enter; or on Windows the name of its pipe, of at most 240. Default: a short one.
func WithSocket(path string) Option { return func(o *options) { o.socket = path } }

// WithTransport sets how the instance reaches its server. One transport may
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

// WithTables adds tables of the host's own, such as osquery-go's plugin/table makes.
func WithTables(tables ...extension.Table) Option {
	return func(o *options) { o.tables = append(o.tables, tables...) }
}

// WithConfig sets how the instance gets its config.
func WithConfig(c extension.Config) Option { return func(o *options) { o.config = c } }

// WithLogs sets how the instance's log lines are queued and delivered.
func WithLogs(l extension.Logs) Option { return func(o *options) { o.logs = l } }

// WithDistributed sets how the instance runs distributed queries.
func WithDistributed(d extension.Distributed) Option { return func(o *options) { o.distributed = d } }

// WithEnrolment limits how often the instance enrols.
func WithEnrolment(e extension.Enrolment) Option { return func(o *options) { o.enrolment = e } }

// WithNodeKeyStore sets where the node key is kept. The default is the file node_key in the
// instance's directory, of mode 0600.
func WithNodeKeyStore(k extension.NodeKeyStore) Option {
	return func(o *options) {
		if k == nil {
			o.problem(optionErrorf("WithNodeKeyStore", "the store is nil; leave the option out for the file"))
			return
		}
		o.keys = k
	}
}

// WithFlag passes a flag to osqueryd; name is without dashes. Flags that the SDK sets and flags that
// the binary does not have are refused. A config cannot change a flag that was set so.
func WithFlag(name, value string) Option {
	return func(o *options) { o.flags[name] = value }
}

// WithEnv adds variables, as "NAME=value", to osqueryd's environment, which is the host's without
// OSQUERY_*.
func WithEnv(vars ...string) Option {
	return func(o *options) { o.env = append(o.env, vars...) }
}

// WithLabels sets labels of the host's own, which every transport call has in its Node. Each
// call adds to the ones before.
func WithLabels(labels map[string]string) Option {
	return func(o *options) {
		for k, v := range labels {
			o.labels[k] = v
		}
	}
}

// WithHostIdentifier sets what osqueryd calls this node in its logs, and what the node enrols as.
// It must be different on each host and for each instance. Default: osqueryd's instance_id, which
// it keeps in its database. When it changes, the instance enrols again.
func WithHostIdentifier(id string) Option { return func(o *options) { o.hostID = id } }

// WithLogger sets the logger of osqueryd's own lines (with source=osqueryd) and of what no event
// reports; add stats.LogTo with the same logger by WithObserver for the events. Default: nothing
// is logged. A handler that panics or blocks delays nothing: after 0.1 s up to 1024 records wait
// for it, and lost ones are counted in the log.
func WithLogger(l *slog.Logger) Option {
	return func(o *options) {
		if l == nil {
			o.problem(optionErrorf("WithLogger", "the logger is nil; leave the option out to discard the log"))
			return
		}
		o.hostLogger = l
		o.logger, o.ownLog = guard.Logger(l)
	}
}

// WithObserver adds an observer of the instance's events.
func WithObserver(obs stats.Observer) Option {
	return func(o *options) {
		if obs == nil {
			o.problem(optionErrorf("WithObserver", "the observer is nil"))
			return
		}
		o.observers = append(o.observers, obs)
	}
}

// Timeouts bound the waits of an instance. A field that is zero has its default; the others must
// be from 1 ms to 1 h, Start and Replace up to 24 h.
type Timeouts struct {
	// Start bounds a start, from spawn to ready. Default 60 s.
	Start time.Duration
	// Replace bounds the wait for a new worker. Default 90 s; osqueryd itself pauses up to 20 s
	// before it starts one.
	Replace time.Duration
	// Register bounds one attempt to register the extension. Default 10 s.
	Register time.Duration
	// Extensions is how long osqueryd waits for our extension. Default 20 s; whole seconds.
	Extensions time.Duration
	// Stop bounds a whole stop. Default 25 s, which fits into the 30 s of container platforms.
	// Of it osqueryd has 64 % until it is killed, since it may take 15 s to exit, and the last
	// delivery of logs at least 8 %; the rest stays queued on disk. A negative value kills
	// osqueryd at once and delivers nothing more.
	Stop time.Duration
	// Binary bounds each execution of the binary that checks it. Default 10 s.
	Binary time.Duration
	// Disk bounds each wait for the file system, in New and at a start. Default 60 s: the
	// recovery of full queues on a slow disk takes long.
	Disk time.Duration
	// Observers bounds the wait for slow observers in a stop and in Close, and as long again
	// after their context ended. Default 5 s.
	Observers time.Duration
}

// WithTimeouts sets the bounds of all waits.
func WithTimeouts(t Timeouts) Option {
	return func(o *options) { o.timeouts = t.withDefaults() }
}

const defaultStop = 25 * time.Second

func (t Timeouts) withDefaults() Timeouts {
	return Timeouts{
		Start:      cmp.Or(t.Start, 60*time.Second),
		Replace:    cmp.Or(t.Replace, 90*time.Second),
		Register:   cmp.Or(t.Register, 10*time.Second),
		Extensions: cmp.Or(t.Extensions, 20*time.Second),
		Stop:       cmp.Or(t.Stop, defaultStop),
		Binary:     cmp.Or(t.Binary, 10*time.Second),
		Disk:       cmp.Or(t.Disk, 60*time.Second),
		Observers:  cmp.Or(t.Observers, 5*time.Second),
	}
}

// stop returns the bound of a whole stop, also where osqueryd is killed at once.
func (t Timeouts) stop() time.Duration {
	if t.Stop < 0 {
		return defaultStop
	}
	return t.Stop
}

// giveUp is how long anything may take to return after its context ended.
func (t Timeouts) giveUp() time.Duration { return t.stop() / 5 }

// Health sets how an instance is checked while it runs. A field that is zero has its default.
type Health struct {
	// Interval is the time between two checks, and up to a tenth more. Default 10 s, from 1 ms
	// to 24 h.
	Interval time.Duration
	// Timeout bounds a check. Default 5 s, from 1 ms to 1 h.
	Timeout time.Duration
	// Failures is how many failed checks in a row end the run. Default 3, from 1 to 1000.
	Failures int
	// Delay is the time from ready to the first check, 24 h at most. Default: the interval. A
	// negative value checks at once.
	Delay time.Duration
	// Check is a host's own check, called after the instance's own passed. An error counts as a
	// failed check. It must return when its context ends, after Timeout. It may call Query;
	// PushConfig and SetTables would deadlock until they time out.
	Check func(ctx context.Context, in *Instance) error
}

// WithHealth sets the health checks.
func WithHealth(h Health) Option { return func(o *options) { o.health = h.withDefaults() } }

func (h Health) withDefaults() Health {
	h.Interval = cmp.Or(h.Interval, 10*time.Second)
	h.Timeout = cmp.Or(h.Timeout, 5*time.Second)
	h.Failures = cmp.Or(h.Failures, 3)
	return h
}

// healthTicks is how many times in an interval checks can be due.
const healthTicks = 10

// first returns the time from ready, which is now, to the first check.
func (h Health) first(now time.Time) time.Duration {
	if h.Delay != 0 {
		return max(0, h.Delay)
	}
	return h.next(now)
}

// next returns the time from now to the next check. It ends at a tick that all instances
// with the interval have in common: waking an idle host costs more than the check does.
func (h Health) next(now time.Time) time.Duration {
	tick := h.Interval / healthTicks
	if tick <= 0 {
		return h.Interval
	}
	due := now.Add(h.Interval)
	if past := due.Sub(due.Truncate(tick)); past > 0 {
		due = due.Add(tick - past)
	}
	return due.Sub(now)
}

// Queries sets the bounds of queries. A field that is zero has its default.
type Queries struct {
	// Timeout bounds a query whose context has no deadline. Default 60 s, from 1 ms to 24 h.
	Timeout time.Duration
	// MaxBytes limits an answer. Default 100 MiB, from 64 KiB to 1 GiB; less on a host with
	// little memory.
	MaxBytes int
	// AbandonedWait is how long the next query waits for the answer of one that was given
	// up, before a second connection is opened. Default 5 s, up to 1 h. A negative value
	// opens it at once.
	AbandonedWait time.Duration
}

// WithQueries sets the bounds of queries.
func WithQueries(q Queries) Option { return func(o *options) { o.queries = q.withDefaults() } }

func (q Queries) withDefaults() Queries {
	return Queries{
		Timeout:       cmp.Or(q.Timeout, 60*time.Second),
		MaxBytes:      cmp.Or(q.MaxBytes, 100<<20),
		AbandonedWait: cmp.Or(q.AbandonedWait, 5*time.Second),
	}
}

// Diagnostics sets how much an instance remembers. A field that is zero has its default.
type Diagnostics struct {
	// History is how many ended runs a snapshot holds. Default 16, up to 1000; a negative
	// value keeps none. After an update the newest of the existing ones are kept.
	History int
	// StderrLines is how many of osqueryd's last lines an ExitError holds. Default 40, from
	// 1 to 1000.
	StderrLines int
}

// WithDiagnostics sets how much is remembered.
func WithDiagnostics(d Diagnostics) Option {
	return func(o *options) { o.diagnostics = d.withDefaults() }
}

func (d Diagnostics) withDefaults() Diagnostics {
	return Diagnostics{History: cmp.Or(d.History, 16), StderrLines: cmp.Or(d.StderrLines, 40)}
}

// history returns how many runs are kept.
func (d Diagnostics) history() int { return max(0, d.History) }

// Watchdog sets osqueryd's limits on itself. The zero value is osqueryd's normal level: the worker
// may grow by 200 MB and use 10 % of all CPU threads for 12 s.
type Watchdog struct {
	// Disabled runs osqueryd as one process without limits. Distributed queries that run when
	// it dies are then not denylisted either.
	Disabled bool
	// Restrictive lowers osqueryd's limits to 100 MB and 5 % for 6 s.
	Restrictive bool
	// MemoryMB limits the growth in MiB; 0 is the level's.
	MemoryMB int
	// CPUPercent limits the CPU in percent of all threads, 1 to 100; 0 is the level's.
	CPUPercent int
	// CPUFor is how long that may last, in whole seconds; 0 is the level's.
	CPUFor time.Duration
	// Delay is the time after a worker's start without limits, in whole seconds; 0 is
	// osqueryd's 60 s.
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

// configRefresh is how often osqueryd fetches its config; 0 for never.
func (o *options) configRefresh() time.Duration {
	return max(0, cmp.Or(o.config.Refresh, 5*time.Minute))
}

// distributedInterval is how often osqueryd fetches queries; 0 for never.
func (o *options) distributedInterval() time.Duration {
	return max(0, cmp.Or(o.distributed.Interval, time.Minute))
}

// durationRules bound every duration among the options but those of the watchdog.
func (o *options) durationRules() []durationRule {
	return []durationRule{
		{"WithDistributed: Interval", o.distributedInterval(), 0, day, true},
		{"WithConfig: Refresh", o.configRefresh(), 0, 7 * day, true},
		{"WithTimeouts: Start", o.timeouts.Start, time.Millisecond, day, false},
		{"WithTimeouts: Replace", o.timeouts.Replace, time.Millisecond, day, false},
		{"WithTimeouts: Register", o.timeouts.Register, time.Millisecond, time.Hour, false},
		{"WithTimeouts: Extensions", o.timeouts.Extensions, time.Second, time.Hour, true},
		{"WithTimeouts: Stop", o.timeouts.stop(), time.Millisecond, time.Hour, false},
		{"WithTimeouts: Binary", o.timeouts.Binary, time.Millisecond, time.Hour, false},
		{"WithTimeouts: Disk", o.timeouts.Disk, time.Millisecond, time.Hour, false},
		{"WithTimeouts: Observers", o.timeouts.Observers, time.Millisecond, time.Hour, false},
		{"WithHealth: Interval", o.health.Interval, time.Millisecond, day, false},
		{"WithHealth: Timeout", o.health.Timeout, time.Millisecond, time.Hour, false},
		{"WithHealth: Delay", max(0, o.health.Delay), 0, day, false},
		{"WithQueries: Timeout", o.queries.Timeout, time.Millisecond, day, false},
		{"WithQueries: AbandonedWait", max(0, o.queries.AbandonedWait), 0, time.Hour, false},
	}
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
	for _, r := range []struct {
		option          string
		value, min, max int
	}{
		{"WithHealth: Failures", o.health.Failures, 1, 1000},
		{"WithQueries: MaxBytes", o.queries.MaxBytes, 64 << 10, 1 << 30},
		{"WithDiagnostics: History", o.diagnostics.history(), 0, 1000},
		{"WithDiagnostics: StderrLines", o.diagnostics.StderrLines, 1, 1000},
	} {
		if r.value < r.min || r.value > r.max {
			errs = append(errs, optionErrorf(r.option, "%d is out of range; it must be from %d to %d", r.value, r.min, r.max))
		}
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
