package stats

import "time"

// current says that an event is about the live run. One without a run id is.
func (r *Recorder) current(h Head) bool {
	return r.live && (h.Run == "" || h.Run == r.run.ID)
}

// known says that a run is the live one or has ended.
func (r *Recorder) known(id string) bool {
	return (r.live && id == r.run.ID) || id == r.lastRun || r.history.has(id)
}

// adopt says that an event is about the live run, and makes a run that was never
// heard of the live one: an event before it was lost on the way to us, and an
// instance that answers must not be taken for dead because of that.
func (r *Recorder) adopt(h Head, started time.Time) bool {
	if r.current(h) {
		return true
	}
	if h.Run == "" || r.known(h.Run) {
		return false
	}
	r.open(h, started)
	return true
}

func (r *Recorder) open(h Head, started time.Time) {
	r.loseRun(h.Time)
	r.live, r.removed = true, false
	r.run = Run{ID: h.Run, Started: started, Phase: PhasePrepare}
	if r.totals.Runs++; r.totals.Runs > 1 {
		r.totals.Restarts++
	}
	r.enter(StateStarting, started)
}

// loseRun ends a live run whose end was not heard of.
func (r *Recorder) loseRun(at time.Time) {
	if !r.live {
		return
	}
	r.run.Cause = CauseUnknown
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
