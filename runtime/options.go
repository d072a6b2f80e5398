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

// Option sets one thing about a Runner. Options are applied in order; a later one
// wins over an earlier one, except for those that say they add.
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
// included; an instance's own options come after them, and they after what the Runner's other
// options set. Each call adds to the ones before. See SetDefaults for a set that exists.
func WithInstanceDefaults(opts ...instance.Option) Option {
	return func(o *options) { o.defaults = append(o.defaults, opts...) }
}

// WithRestart sets when instances are started again.
func WithRestart(p RestartPolicy) Option {
	p.Causes = maps.Clone(p.Causes) // which supervisors read while the host may change its own
	return func(o *options) { o.policy = p }
}

// Starts bounds how many instances start at the same time, so that a large set does not slow
// itself down. A field that is zero has its default.
type Starts struct {
	// Limit is how many instances are between their spawn and the registration of their
	// extension, which is just before ready. Default: twice the number of CPUs, at least 4.
	// Instances whose last start failed go after all others, and are at most half of them.
	Limit int
	// Turn is how long one start counts against Limit, so that those that hang do not hold up
	// the others. Default 15 s.
	Turn time.Duration
}

// WithStarts sets the bounds of starts.
func WithStarts(s Starts) Option { return func(o *options) { o.starts = s.withDefaults() } }

func (s Starts) withDefaults() Starts {
	return Starts{
		Limit: cmp.Or(s.Limit, max(4, 2*goruntime.NumCPU())),
		Turn:  cmp.Or(s.Turn, 15*time.Second),
	}
}

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

// Errors that the methods of a Runner return, wrapped with the id.
var (
	// ErrRunning says that Run is under way already.
	ErrRunning = errors.New("the runner is running already")
	// ErrNotFound says that no instance has this id.
	ErrNotFound = errors.New("there is no such instance")
	// ErrExists says that an instance has this id already.
	ErrExists = errors.New("there is an instance of that id already")
	// ErrSharedDirectory says that two instances would have the same directory.
	ErrSharedDirectory = errors.New("another instance has that directory")
	// ErrSharedSocket says that two instances would have the same socket, or one that
	// begins with the other's path and a dot, which osqueryd would delete.
	ErrSharedSocket = errors.New("another instance has that socket")
	// ErrParked says that the instance failed too often, or in a way that starting it
	// again soon cannot help, and is down for a while; see RestartPolicy.ParkFor.
	ErrParked = instance.ErrParked
	// ErrNotParked says that there is nothing to resume.
	ErrNotParked = errors.New("the instance is not parked")
)
