package instance

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/stats"
)

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
