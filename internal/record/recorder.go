// Package record keeps what is known of one instance: it turns events into a snapshot.
package record

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/osqvisor/osqvisor/stats"
)

// maxHistory is the most that instance.Diagnostics.History allows.
const maxHistory = 1000

// Recorder is a [stats.Observer] that keeps the counters, the current state and a
// bounded history of runs of one instance.
//
// What cannot be undone stays: a run that ended stays ended, whatever later events
// say, and an instance that was removed stays removed until it is added again or a
// new run starts. All methods are safe for concurrent use and may be called from
// callbacks; none of them waits for anything but a short lock. Make one with [New].
type Recorder struct {
	instance string
	counters Counters

	mu        sync.Mutex
	state     stats.State
	since     time.Time
	nextStart time.Time
	lastError string
	removed   bool
	live      bool // run has not ended
	run       stats.Run
	lastRun   string // id of the newest run that ended
	history   history
	totals    stats.Totals
}

// New returns a Recorder of the instance with this id; events of other instances are ignored.
// It keeps as many ended runs as [Recorder.SetHistory] sets.
func New(instance string, history int) *Recorder {
	r := &Recorder{instance: instance, state: stats.StateIdle}
	r.SetHistory(history)
	return r
}

// SetHistory sets how many ended runs are kept, from 0 to 1000; a number out of these
// bounds becomes the nearest one within. The newest runs stay.
func (r *Recorder) SetHistory(runs int) {
	runs = max(0, min(runs, maxHistory))
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.history.limit != runs {
		r.history.resize(runs)
	}
}

// Counters returns the counters that are part of every Snapshot, always the same
// ones. Log lines, queries and configs are counted there alone: their events
// change no total.
func (r *Recorder) Counters() *Counters { return &r.counters }

// Observe takes one event into account. The context is not used.
func (r *Recorder) Observe(_ context.Context, e stats.Event) {
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

// State returns the current state. It allocates nothing.
func (r *Recorder) State() stats.State {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state
}

// Snapshot returns a copy of what is known now. It costs at most two allocations.
func (r *Recorder) Snapshot() stats.Snapshot {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := stats.Snapshot{
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

// fold moves the state and the run on. It is called under the lock.
func (r *Recorder) fold(e stats.Event, text string) {
	switch e := e.(type) {
	case stats.InstanceAdded, stats.InstanceUpdated, stats.InstanceResumed, stats.InstanceRemoved,
		stats.InstanceParked, stats.RestartScheduled:
		r.foldInstance(e, text)
	case stats.RunStarting, stats.ProcessStarted, stats.ExtensionRegistered, stats.RunReady, stats.RunStopping, stats.RunEnded:
		r.foldRun(e, text)
	case stats.RegistrationLost, stats.HealthFailed, stats.WorkerLost:
		r.failed(e.Meta(), text)
	case stats.RegistrationRestored, stats.HealthRecovered:
		r.recovered(e.Meta())
	case stats.WorkerReplaced:
		if r.current(e.Head) {
			r.run.WorkersReplaced++
		}
		r.recovered(e.Head)
	}
}

func (r *Recorder) foldInstance(e stats.Event, text string) {
	if _, added := e.(stats.InstanceAdded); added {
		r.removed = false
	}
	if r.removed {
		return
	}
	switch e := e.(type) {
	case stats.InstanceAdded, stats.InstanceUpdated, stats.InstanceResumed:
		// A live run speaks for itself, by RunStopping and RunEnded.
		if !r.live {
			r.enter(stats.StateIdle, e.Meta().Time)
		}
	case stats.InstanceParked:
		r.lastError = text
		r.enter(stats.StateParked, e.Time)
		if e.For > 0 {
			r.nextStart = e.Time.Add(e.For)
		}
	case stats.RestartScheduled:
		r.enter(stats.StateBackoff, e.Time)
		r.nextStart = e.Time.Add(e.Delay)
	case stats.InstanceRemoved:
		r.loseRun(e.Time)
		r.removed = true
		r.enter(stats.StateStopped, e.Time)
	}
}

func (r *Recorder) foldRun(e stats.Event, text string) {
	switch e := e.(type) {
	case stats.RunStarting:
		r.started(e)
	case stats.ProcessStarted:
		if r.adopt(e.Head, e.Time) {
			r.run.PID, r.run.Phase = e.PID, stats.PhaseConnect
		}
	case stats.ExtensionRegistered:
		if r.current(e.Head) {
			r.run.Registrations++
			if r.run.Ready.IsZero() {
				r.run.Phase = stats.PhaseRegister
			}
		}
	case stats.RunReady:
		r.ready(e)
	case stats.RunStopping:
		if r.current(e.Head) {
			r.run.Phase = stats.PhaseStop
			if r.running() {
				r.enter(stats.StateStopping, e.Time)
			}
		}
	case stats.RunEnded:
		r.ended(e, text)
	}
}

func (r *Recorder) started(e stats.RunStarting) {
	if e.Run != "" && r.known(e.Run) {
		return
	}
	r.open(e.Head, e.Time)
	r.run.Version = e.Version
}

func (r *Recorder) ready(e stats.RunReady) {
	if !r.adopt(e.Head, e.Time.Add(-e.Elapsed)) {
		return
	}
	run := &r.run
	if run.Ready.IsZero() {
		run.Ready = e.Time
	}
	if e.PID != 0 {
		run.PID = e.PID
	}
	if e.Version != "" {
		run.Version = e.Version
	}
	run.InstanceID = e.InstanceID
	if r.running() && r.state != stats.StateStopping {
		run.Phase = stats.PhaseServe
		r.enter(stats.StateReady, e.Time)
	}
}

func (r *Recorder) ended(e stats.RunEnded, text string) {
	if !r.adopt(e.Head, e.Time.Add(-e.Uptime)) {
		return
	}
	run := &r.run
	if e.PID != 0 {
		run.PID = e.PID
	}
	run.Uptime, run.Phase, run.Cause = e.Uptime, e.Phase, e.Cause
	run.Code, run.Signal, run.Error = e.Code, e.Signal, text
	r.shelve(e.Time)
	if e.Cause != stats.CauseRequested {
		r.totals.Failures++
		r.lastError = text
	}
	// Parked and backing off were decided knowing of this end.
	if !r.running() {
		return
	}
	if e.Cause == stats.CauseRequested {
		r.lastError = ""
	}
	r.enter(stats.StateStopped, e.Time)
}

func (r *Recorder) failed(h stats.Head, text string) {
	if !r.current(h) || !r.serving() {
		return
	}
	r.lastError = text
	r.enter(stats.StateUnhealthy, h.Time)
}

func (r *Recorder) recovered(h stats.Head) {
	if r.current(h) && r.serving() {
		r.enter(stats.StateReady, h.Time)
	}
}

// enter changes the state; Since moves only when the state does.
func (r *Recorder) enter(s stats.State, at time.Time) {
	if r.state != s || r.since.IsZero() {
		r.state, r.since = s, at
	}
	r.nextStart = time.Time{}
}

// running reports whether the state is that of a live run.
func (r *Recorder) running() bool {
	return r.serving() || r.state == stats.StateStarting || r.state == stats.StateStopping
}

// serving reports whether the run was ready and was not asked to stop.
func (r *Recorder) serving() bool {
	return r.state == stats.StateReady || r.state == stats.StateUnhealthy
}

// current reports whether an event is about the live run. One without a run id is.
func (r *Recorder) current(h stats.Head) bool {
	return r.live && (h.Run == "" || h.Run == r.run.ID)
}

// known reports whether a run is the live one or has ended.
func (r *Recorder) known(id string) bool {
	return (r.live && id == r.run.ID) || id == r.lastRun || r.history.has(id)
}

// adopt reports whether an event is about the live run, and makes a run that was never
// heard of the live one: an event before it was lost on the way to us, and an
// instance that answers must not be taken for dead because of that.
func (r *Recorder) adopt(h stats.Head, started time.Time) bool {
	if r.current(h) {
		return true
	}
	if h.Run == "" || r.known(h.Run) {
		return false
	}
	r.open(h, started)
	return true
}

func (r *Recorder) open(h stats.Head, started time.Time) {
	r.loseRun(h.Time)
	r.live, r.removed = true, false
	r.run = stats.Run{ID: h.Run, Started: started, Phase: stats.PhasePrepare}
	if r.totals.Runs++; r.totals.Runs > 1 {
		r.totals.Restarts++
	}
	r.enter(stats.StateStarting, started)
}

// loseRun ends a live run whose end was not heard of.
func (r *Recorder) loseRun(at time.Time) {
	if !r.live {
		return
	}
	r.run.Cause = stats.CauseUnknown
	r.run.Error = "the end of the run was not reported"
	r.totals.Failures++
	r.shelve(at)
}

// shelve moves the live run to the history.
func (r *Recorder) shelve(at time.Time) {
	r.run.Ended = at
	r.lastRun = r.run.ID
	r.history.add(r.run)
	r.live = false
}

// tally counts the events that are worth a total, whatever state they meet.
func (r *Recorder) tally(e stats.Event) {
	switch e.(type) {
	case stats.WorkerReplaced:
		r.totals.WorkersReplaced++
	case stats.RegistrationRestored:
		r.totals.RegistrationsRestored++
	case stats.HealthFailed:
		r.totals.HealthFailures++
	case stats.WatchdogKilled:
		r.totals.WatchdogKills++
	case stats.QueryDenylisted:
		r.totals.Denylisted++
	case stats.DatabaseReplaced:
		r.totals.Databases++
	case stats.PanicCaught:
		r.totals.Panics++
	case stats.TransportFailed:
		r.totals.TransportErrors++
	case stats.ConfigRefused:
		r.totals.ConfigsRefused++
	case stats.ConfigSetAside:
		r.totals.ConfigsSetAside++
	}
}

// failureText is what an event adds to Snapshot.LastError, or empty.
func failureText(e stats.Event) string {
	switch e := e.(type) {
	case stats.RunEnded:
		if e.Cause == stats.CauseRequested {
			return errorText(e.Err, "")
		}
		return errorText(e.Err, causeText(e.Cause))
	case stats.InstanceParked:
		return errorText(e.Err, causeText(e.Cause))
	case stats.HealthFailed:
		return errorText(e.Err, "health check failed")
	case stats.RegistrationLost:
		return errorText(e.Err, "registration lost")
	case stats.WorkerLost:
		return "worker lost"
	}
	return ""
}

func errorText(err error, otherwise string) string {
	if err == nil {
		return otherwise
	}
	return err.Error()
}

func causeText(c stats.Cause) string {
	if c == "" {
		return string(stats.CauseUnknown)
	}
	return string(c)
}

// history is a ring of the newest runs that ended. It grows to its limit as
// runs end, so that an instance that never fails costs nothing.
type history struct {
	limit int
	runs  []stats.Run
	next  int // where the next run goes once the ring is full
}

func (h *history) add(r stats.Run) {
	switch {
	case h.limit == 0:
	case len(h.runs) < h.limit:
		h.runs = append(h.runs, r)
	default:
		h.runs[h.next] = r
		h.next = (h.next + 1) % h.limit
	}
}

// resize changes the limit and keeps the newest runs.
func (h *history) resize(limit int) {
	runs := h.newestFirst()
	runs = runs[:min(len(runs), limit)]
	slices.Reverse(runs)
	*h = history{limit: limit, runs: runs}
}

// newestFirst returns a copy, or nil when there is none.
func (h *history) newestFirst() []stats.Run {
	n := len(h.runs)
	if n == 0 {
		return nil
	}
	out := make([]stats.Run, n)
	for i := range out {
		out[i] = h.runs[(h.next+2*n-1-i)%n]
	}
	return out
}

func (h *history) has(id string) bool {
	for i := range h.runs {
		if h.runs[i].ID == id {
			return true
		}
	}
	return false
}
