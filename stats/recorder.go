package stats

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

const (
	defaultHistory = 16
	maxHistory     = 1000
)

// Recorder is an [Observer] that keeps the counters, the current [State] and a
// bounded history of runs of one instance.
//
// It believes what cannot be undone: a run that ended stays ended, whatever is
// said of it afterwards, and an instance that was removed stays so until it is
// added again or a new run starts. All methods are safe for concurrent use and
// may be called from callbacks; none of them waits for anything but a short
// lock. Make one with [NewRecorder].
type Recorder struct {
	instance string
	counters Counters

	mu        sync.Mutex
	state     State
	since     time.Time
	nextStart time.Time
	lastError string
	removed   bool
	live      bool // run has not ended
	run       Run
	lastRun   string // id of the newest run that ended
	history   history
	totals    Totals
}

// RecorderOption changes what [NewRecorder] makes.
type RecorderOption func(*recorderOptions)

type recorderOptions struct{ history int }

// WithHistory bounds how many ended runs are kept: 0 to 1000, 16 by default.
// The oldest is forgotten first.
func WithHistory(runs int) RecorderOption {
	return func(o *recorderOptions) { o.history = runs }
}

// NewRecorder makes a Recorder for the instance of that id; events of other
// instances are ignored. It fails, with every mistake named, when the id is
// empty or an option is out of bounds. A nil option is skipped.
func NewRecorder(instance string, opts ...RecorderOption) (*Recorder, error) {
	o := recorderOptions{history: defaultHistory}
	for _, opt := range opts {
		if opt != nil {
			opt(&o)
		}
	}
	if err := o.validate(instance); err != nil {
		return nil, fmt.Errorf("stats: recorder: %w", err)
	}
	return &Recorder{instance: instance, state: StateIdle, history: history{limit: o.history}}, nil
}

func (o recorderOptions) validate(instance string) error {
	var errs []error
	if instance == "" {
		errs = append(errs, errors.New("the instance id is empty: give the id that its events carry"))
	}
	if o.history < 0 || o.history > maxHistory {
		errs = append(errs, fmt.Errorf("history of %d runs is out of bounds: use 0 to %d", o.history, maxHistory))
	}
	return errors.Join(errs...)
}

// SetHistory changes how many ended runs are kept, as [WithHistory] sets it; a number out of
// its bounds becomes the nearest one within. The newest of those that are there stay.
func (r *Recorder) SetHistory(runs int) {
	runs = max(0, min(runs, maxHistory))
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.history.limit != runs {
		r.history.resize(runs)
	}
}

// Counters gives the counters that are part of every Snapshot. It is always the
// same one. Log lines, queries and configs are counted there alone: the events
// that announce them change no total.
func (r *Recorder) Counters() *Counters { return &r.counters }

// Observe takes one event into account. The context is not used.
func (r *Recorder) Observe(_ context.Context, e Event) {
	if e == nil || e.Meta().Instance != r.instance {
		return
	}
	// The text of an error is made by code of the host: not under the lock.
	text := failureText(e)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tally(e)
	r.fold(e, text)
}

// State gives where the instance stands now. It allocates nothing.
func (r *Recorder) State() State {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state
}

// Snapshot gives a copy of what is known now. It costs at most two allocations.
func (r *Recorder) Snapshot() Snapshot {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := Snapshot{
		Instance:  r.instance,
		State:     r.state,
		Since:     r.since,
		History:   r.history.newestFirst(),
		LastError: r.lastError,
		NextStart: r.nextStart,
		Totals:    r.totals,
	}
	if r.live {
		run := r.run
		s.Run = &run
	}
	r.counters.addTo(&s.Totals)
	return s
}
