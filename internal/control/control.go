// Package control is how package runtime drives the instances of its set. Nothing of it
// is public: a host can neither hold up a supervisor with it, nor rely on it.
package control

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/osqvisor/osqvisor/internal/delivery"
	"github.com/osqvisor/osqvisor/internal/plugin"
	"github.com/osqvisor/osqvisor/stats"
)

// Settings are what a supervisor sets of an instance, beside its options. The zero value of
// a field changes nothing.
type Settings struct {
	// Supervise makes the instance a supervised one, whose own Run and Close fail.
	// instance.New calls it with what drives the instance, once.
	Supervise func(Engine)
	// Plan has instance.New do nothing but call it, and return nil: no file is looked at.
	Plan func(Plan)
	// DryRun has instance.New check everything, leave nothing behind and return nil.
	DryRun bool
	// NoBinary and NoRoot report that the supervisor's own binary or root is wrong, so that an
	// instance that has none of its own is not at fault. They go with DryRun.
	NoBinary, NoRoot bool
	// Gate bounds how many instances start at once.
	Gate Gate
	// Pace limits the enrolments of all instances that have the same one.
	Pace *plugin.EnrollPace
	// Disk bounds the queues of all instances that have the same one.
	Disk *delivery.Budget
	// Shared is what instances know of binaries together.
	Shared *Shared
	// Context ends the executions of the binary by instance.New, which fails then.
	Context context.Context
	// Predecessor is the instance of the same id whose snapshot, history and counters are
	// continued. If it had another directory, the lines in its queues are moved to the new
	// one before the first run; those that cannot be are announced by a stats.QueueLeft.
	Predecessor Engine
	// Clock replaces the two clocks by which a sleep of the machine is noticed; see Clock.
	Clock Clock
}

// Clock returns a time that goes on while the machine sleeps, and the time that the machine
// ran. The first must not follow the wall clock, which may be set. It must not block.
type Clock func() (always time.Time, running time.Duration)

// Gate is called before a process is spawned and blocks until the start may go on, or ctx
// ends. release is called once, when osqueryd has the extension, which is just before
// ready, or the start has failed. A Gate that does not return holds up the end of a run
// for a bounded time only.
type Gate func(ctx context.Context) (release func(), err error)

// Engine is what drives one supervised instance. *instance.Instance documents the methods
// of the same names; those without one:
type Engine interface {
	Run(ctx context.Context) error
	Close(ctx context.Context) error
	// Ship delivers what is queued until ctx ends, whether or not osqueryd runs. A run does
	// so by itself; Ship waits meanwhile, to take over. It returns nil when ctx ends, and
	// fails when the instance is closed, or another host uses its directory.
	Ship(ctx context.Context) error
	// Settle waits, for a bounded time, until observers have all events so far.
	Settle(ctx context.Context)
	// Record emits an event about the instance, in order with its own.
	Record(ctx context.Context, e stats.Event)
	// SetAsleep sets whether the machine is about to sleep: checks that fail then, or span
	// it, do not count, for SleepLimit at most.
	SetAsleep(asleep bool)
	// Conditions looks at what a start depends on outside of the instance.
	Conditions(ctx context.Context) (Conditions, error)
	// AwaitReady waits until a run is ready. It fails with ErrAgain when until is closed,
	// with instance.ErrClosed, or with ctx's cause and what the instance is doing. Whether
	// an instance is parked is the supervisor's to know.
	AwaitReady(ctx context.Context, until <-chan struct{}) error
	// Plan returns the options that the instance has now.
	Plan() Plan
	// Apply changes what takes no new osqueryd, and the tables only if they are wanted.
	Apply(ctx context.Context, p Plan, tables bool) error
}

// ErrAgain reports that a wait ended because its caller has to look again.
var ErrAgain = errors.New("look again")

// Plan is a set of options, before anything is made of them.
type Plan interface {
	// Place returns the directory and the socket that the instance would have; what is
	// missing or wrong is empty or odd in it.
	Place() (dir, socket string)
	// Changes returns what differs from an older plan, option by option. Pointers, channels and
	// functions are compared by identity; what cannot be compared counts as different.
	Changes(old Plan) []Change
	// Wrong reports that an option was refused when it was applied, which Changes does not show.
	Wrong() bool
}

// Change is an option whose value differs.
type Change struct {
	Option  string
	Restart bool // it takes a new osqueryd
}

// Conditions are what a start depends on outside of the instance, at one moment. A
// supervisor compares two of them, to start again at once when what stood in the way of a
// start has changed.
type Conditions struct {
	// Binary stands for the file that the next run starts; it is another when that file
	// was exchanged or changed, and empty when there is none.
	Binary string
	// Free is the room in bytes that the file system of the instance's directory has for
	// this user; -1 when it is not known.
	Free int64
}

// SleepLimit is how long a sleep that was announced and not ended counts, in time that the
// machine runs.
const SleepLimit = 10 * time.Minute

// Shared is what the instances of one supervisor know together. The zero value is ready.
type Shared struct {
	once sync.Once
	kept any
}

// Load returns what package instance keeps in it, made by first in the first call.
func (s *Shared) Load(first func() any) any {
	s.once.Do(func() { s.kept = first() })
	return s.kept
}
