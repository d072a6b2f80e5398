package runtime

import (
	"cmp"
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

// Option sets one thing about a Runner. A later one replaces an earlier one, except for those
// that add.
type Option func(*options)

type options struct {
	binary      string
	binarySet   bool
	root        string
	rootSet     bool
	common      []instance.Option // of all instances, set by options of the Runner
	defaults    []instance.Option // after those
	members     []memberSpec
	policy      RestartPolicy
	starts      Starts
	disk        extension.DiskLimits
	alarmSet    bool
	alarmLimit  int
	alarmWindow time.Duration
	logger      *slog.Logger
	problems    []error
}

type memberSpec struct {
	id   string
	opts []instance.Option
}

func (o *options) problem(option, format string, args ...any) {
	o.problems = append(o.problems, &instance.OptionError{Option: option, Err: fmt.Errorf(format, args...)})
}

func (o *options) instances(opts ...instance.Option) { o.common = append(o.common, opts...) }

// WithBinary sets the osqueryd of every instance that has no other, by absolute path.
func WithBinary(path string) Option {
	return func(o *options) { o.binary, o.binarySet = path, true }
}

// WithRoot sets the directory below which instances have theirs; it is absolute, and made when
// it is missing.
func WithRoot(dir string) Option {
	return func(o *options) { o.root, o.rootSet = dir, true }
}

// WithTransport sets the transport of all instances that have no other.
func WithTransport(t extension.Transport) Option {
	return func(o *options) {
		if t == nil {
			o.problem("WithTransport", "the transport is nil; leave the option out to run without one")
			return
		}
		o.instances(instance.WithTransport(t))
	}
}

// WithInstance adds an instance.
func WithInstance(id string, opts ...instance.Option) Option {
	return func(o *options) { o.members = append(o.members, memberSpec{id, opts}) }
}

// WithInstanceDefaults adds options of every instance, later ones included. An instance's own
// options override them, and they the Runner's. See SetDefaults.
func WithInstanceDefaults(opts ...instance.Option) Option {
	return func(o *options) { o.defaults = append(o.defaults, opts...) }
}

// WithRestart sets when instances are restarted.
func WithRestart(p RestartPolicy) Option {
	p.Causes = maps.Clone(p.Causes) // which supervisors read while the host may change its own
	return func(o *options) { o.policy = p }
}

// Starts bounds how many instances start at the same time. A field that is zero has its default.
type Starts struct {
	// Limit is how many are between spawn and ready. Default: twice the number of CPUs, at least
	// 4. Instances whose last start failed go last, and are at most half of them.
	Limit int
	// Turn is how long one start counts against Limit. Default 15 s.
	Turn time.Duration
}

// WithStarts sets the bounds of starts. Change them when many instances start slowly.
func WithStarts(s Starts) Option { return func(o *options) { o.starts = s.withDefaults() } }

func (s Starts) withDefaults() Starts {
	return Starts{
		Limit: cmp.Or(s.Limit, max(4, 2*goruntime.NumCPU())),
		Turn:  cmp.Or(s.Turn, 15*time.Second),
	}
}

// WithDisk bounds the disk space of all queues together. Default: 4 GiB, and a twentieth of
// the file system, at most 1 GiB, stays free. extension.Logs.WhenFull sets what a full queue
// does.
func WithDisk(l extension.DiskLimits) Option { return func(o *options) { o.disk = l } }

// WithRateAlarm emits a stats.RateAlarm when an instance is restarted after failures, or its
// watchdog kills workers, more than n times within the window; each at most once per window.
// Default: no alarms.
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

// WithObserver adds an observer of the events of all instances.
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
		starts: Starts{}.withDefaults(),
		logger: slog.New(slog.DiscardHandler),
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
	if o.starts.Limit < 1 {
		o.problem("WithStarts", "a Limit of %d is out of range; it must be at least 1", o.starts.Limit)
	}
	if o.starts.Turn <= 0 {
		o.problem("WithStarts", "a Turn of %v is out of range; it must be positive", o.starts.Turn)
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

// Errors of a Runner, wrapped with the id.
var (
	// ErrRunning reports that Run is already under way.
	ErrRunning = errors.New("the runner is running already")
	// ErrNotFound reports that no instance has this id.
	ErrNotFound = errors.New("there is no such instance")
	// ErrExists reports that an instance already has this id.
	ErrExists = errors.New("there is an instance of that id already")
	// ErrSharedDirectory reports that another instance has this directory.
	ErrSharedDirectory = errors.New("another instance has that directory")
	// ErrSharedSocket reports that another instance has this socket, or one that osqueryd
	// would delete: whose path begins with the other's and a dot.
	ErrSharedSocket = errors.New("another instance has that socket")
	// ErrParked reports that the instance is down for a while; see RestartPolicy.
	ErrParked = instance.ErrParked
	// ErrNotParked reports that there is nothing to resume.
	ErrNotParked = errors.New("the instance is not parked")
)
