package runtime

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	goruntime "runtime"
	"time"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/internal/guard"
	"github.com/osqvisor/osqvisor/stats"
)

// The defaults. Each belongs to the option that its comment names.
const (
	DefaultStartTurn    = 15 * time.Second // WithStartTurn
	DefaultCloseTimeout = 10 * time.Second // WithCloseTimeout
)

// Option sets one thing about a Runner. Options are applied in order; a later one
// wins over an earlier one, except for those that say they add.
type Option func(*options)

type options struct {
	binary       string
	binarySet    bool
	root         string
	rootSet      bool
	defaults     []instance.Option
	members      []memberSpec
	policy       RestartPolicy
	startLimit   int
	startTurn    time.Duration
	closeTimeout time.Duration
	disk         extension.DiskLimits
	alarmSet     bool
	alarmLimit   int
	alarmWindow  time.Duration
	logger       *slog.Logger
	problems     []error
}

type memberSpec struct {
	id   string
	opts []instance.Option
}

func (o *options) problem(option, format string, args ...any) {
	o.problems = append(o.problems, &instance.OptionError{Option: option, Err: fmt.Errorf(format, args...)})
}

func (o *options) instances(opts ...instance.Option) { o.defaults = append(o.defaults, opts...) }

// WithBinary names the osqueryd that every instance runs, by absolute path,
// unless it names another. It is checked once, and again when the file changes, within
// the instance.Timeouts.Binary that WithInstanceDefaults may set.
func WithBinary(path string) Option {
	return func(o *options) { o.binary, o.binarySet = path, true }
}

// WithRoot names the directory below which every instance has a directory of its
// own. It must be absolute, and is made, 0700, if it is not there.
func WithRoot(dir string) Option {
	return func(o *options) { o.root, o.rootSet = dir, true }
}

// WithTransport sets the transport of all instances that have none of their own.
func WithTransport(t extension.Transport) Option {
	return func(o *options) {
		if t == nil {
			o.problem("WithTransport", "the transport is nil; leave the option out to run without one")
			return
		}
		o.instances(instance.WithTransport(t))
	}
}

// WithInstance adds an instance to the set. Each call adds one.
func WithInstance(id string, opts ...instance.Option) Option {
	return func(o *options) { o.members = append(o.members, memberSpec{id, opts}) }
}

// WithInstanceDefaults sets options of every instance, those that are added later
// included; an instance's own options come after them. Each call adds to the ones before.
func WithInstanceDefaults(opts ...instance.Option) Option {
	return func(o *options) { o.instances(opts...) }
}

// WithRestart sets when instances are started again.
func WithRestart(p RestartPolicy) Option {
	p.Causes = maps.Clone(p.Causes) // which supervisors read while the host may change its own
	return func(o *options) { o.policy = p }
}

// WithStartLimit bounds how many instances are between their spawn and the registration
// of their extension, which is just before ready, at the same time, so that a large set
// does not starve itself. Those whose last start failed go after all others, and are at most
// half of them. At least 1; the default is twice the number of CPUs, at least 4.
func WithStartLimit(n int) Option { return func(o *options) { o.startLimit = n } }

// WithStartTurn bounds how long one start counts against the start limit, so that
// those that hang do not hold up the others. The default is 15 s.
func WithStartTurn(d time.Duration) Option { return func(o *options) { o.startTurn = d } }

// WithCloseTimeout bounds the wait for an instance's observers to return when the
// instance is closed, at its removal and its update, even if instance.Timeouts.Observers
// gives them longer. The default is 10 s.
func WithCloseTimeout(d time.Duration) Option { return func(o *options) { o.closeTimeout = d } }

// WithDisk bounds what the queues of all instances take of the disk together. The default is 4 GiB, and to leave a
// twentieth of the file system free, at most 1 GiB. What a full queue does is set by extension.Logs.WhenFull.
func WithDisk(l extension.DiskLimits) Option { return func(o *options) { o.disk = l } }

// WithRateAlarm emits a stats.RateAlarm when an instance is restarted after
// failures more than n times within the window, and when its watchdog kills more than
// n workers within the window; each at most once per window. Without it there are no alarms.
func WithRateAlarm(n int, window time.Duration) Option {
	return func(o *options) { o.alarmLimit, o.alarmWindow, o.alarmSet = n, window, true }
}

// WithLogger sets the logger of the Runner and its instances, for osqueryd's own lines and
// for what no event reports; see instance.WithLogger. Events, such as a crash and its
// restart, are logged by WithObserver(stats.LogTo(logger)). Default: nothing is logged.
func WithLogger(l *slog.Logger) Option {
	return func(o *options) {
		if l == nil {
			o.problem("WithLogger", "the logger is nil; leave the option out to discard the log")
			return
		}
		o.logger, _ = guard.Logger(l)
		o.instances(instance.WithLogger(o.logger))
	}
}

// WithObserver sets who is handed the events of all instances. Each call adds one.
func WithObserver(obs stats.Observer) Option {
	return func(o *options) {
		if obs == nil {
			o.problem("WithObserver", "the observer is nil")
			return
		}
		o.instances(instance.WithObserver(obs))
	}
}

func newOptions(opts []Option) (*options, error) {
	o := &options{
		startLimit:   max(4, 2*goruntime.NumCPU()),
		startTurn:    DefaultStartTurn,
		closeTimeout: DefaultCloseTimeout,
		logger:       slog.New(slog.DiscardHandler),
	}
	for i, opt := range opts {
		if opt == nil {
			o.problem("New", "option %d is nil", i)
			continue
		}
		opt(o)
	}
	o.check()
	return o, errors.Join(append(o.problems, o.policy.check()...)...)
}

func (o *options) check() {
	if o.startLimit < 1 {
		o.problem("WithStartLimit", "%d is out of range; at least one instance must be able to start", o.startLimit)
	}
	if o.startTurn <= 0 {
		o.problem("WithStartTurn", "%v is out of range; it must be positive", o.startTurn)
	}
	if o.closeTimeout <= 0 {
		o.problem("WithCloseTimeout", "%v is out of range; it must be positive", o.closeTimeout)
	}
	if o.alarmSet && o.alarmLimit < 1 {
		o.problem("WithRateAlarm", "%d is out of range; it must be at least 1, or leave the option out", o.alarmLimit)
	}
	if o.alarmSet && o.alarmWindow <= 0 {
		o.problem("WithRateAlarm", "the window of %v is out of range; it must be positive", o.alarmWindow)
	}
	if o.rootSet {
		if err := instance.CheckRoot(o.root); err != nil {
			o.problem("WithRoot", "%w", err)
			o.root = "" // no instance is to try it again
		}
	}
}
