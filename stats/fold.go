package stats

import "time"

// fold moves the state and the run on. It is called under the lock.
func (r *Recorder) fold(e Event, text string) {
	switch e := e.(type) {
	case InstanceAdded, InstanceUpdated, InstanceResumed, InstanceRemoved, InstanceParked, RestartScheduled:
		r.foldInstance(e, text)
	case RunStarting, ProcessStarted, ExtensionRegistered, RunReady, RunStopping, RunEnded:
		r.foldRun(e, text)
	case RegistrationLost, HealthFailed, WorkerLost:
		r.trouble(e.Meta(), text)
	case RegistrationMended, HealthRecovered:
		r.mended(e.Meta())
	case WorkerReplaced:
		if r.current(e.Head) {
			r.run.WorkersReplaced++
		}
		r.mended(e.Head)
	}
}

func (r *Recorder) foldInstance(e Event, text string) {
	if _, added := e.(InstanceAdded); added {
		r.removed = false
	}
	if r.removed {
		return
	}
	switch e := e.(type) {
	case InstanceAdded, InstanceUpdated, InstanceResumed:
		// A live run speaks for itself, by RunStopping and RunEnded.
		if !r.live {
			r.enter(StateIdle, e.Meta().Time)
		}
	case InstanceParked:
		r.lastError = text
		r.enter(StateParked, e.Time)
		if e.For > 0 {
			r.nextStart = e.Time.Add(e.For)
		}
	case RestartScheduled:
		r.enter(StateBackoff, e.Time)
		r.nextStart = e.Time.Add(e.Delay)
	case InstanceRemoved:
		r.loseRun(e.Time)
		r.removed = true
		r.enter(StateStopped, e.Time)
	}
}

func (r *Recorder) foldRun(e Event, text string) {
	switch e := e.(type) {
	case RunStarting:
		r.started(e)
	case ProcessStarted:
		if r.adopt(e.Head, e.Time) {
			r.run.PID, r.run.Phase = e.PID, PhaseConnect
		}
	case ExtensionRegistered:
		if r.current(e.Head) {
			r.run.Registrations++
			if r.run.Ready.IsZero() {
				r.run.Phase = PhaseRegister
			}
		}
	case RunReady:
		r.ready(e)
	case RunStopping:
		if r.current(e.Head) {
			r.run.Phase = PhaseStop
			if r.running() {
				r.enter(StateStopping, e.Time)
			}
		}
	case RunEnded:
		r.ended(e, text)
	}
}

func (r *Recorder) started(e RunStarting) {
	if e.Run != "" && r.known(e.Run) {
		return
	}
	r.open(e.Head, e.Time)
	r.run.Version = e.Version
}

func (r *Recorder) ready(e RunReady) {
	if !r.adopt(e.Head, e.Time.Add(-e.Took)) {
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
	if r.running() && r.state != StateStopping {
		run.Phase = PhaseServe
		r.enter(StateReady, e.Time)
	}
}

func (r *Recorder) ended(e RunEnded, text string) {
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
	if e.Cause != CauseRequested {
		r.totals.Failures++
		r.lastError = text
	}
	// Parked and backing off were decided knowing of this end.
	if !r.running() {
		return
	}
	if e.Cause == CauseRequested {
		r.lastError = ""
	}
	r.enter(StateStopped, e.Time)
}

func (r *Recorder) trouble(h Head, text string) {
	if !r.current(h) || !r.serving() {
		return
	}
	r.lastError = text
	r.enter(StateUnhealthy, h.Time)
}

func (r *Recorder) mended(h Head) {
	if r.current(h) && r.serving() {
		r.enter(StateReady, h.Time)
	}
}

// enter changes the state; Since moves only when the state does.
func (r *Recorder) enter(s State, at time.Time) {
	if r.state != s || r.since.IsZero() {
		r.state, r.since = s, at
	}
	r.nextStart = time.Time{}
}

// running says that the state is that of a live run.
func (r *Recorder) running() bool {
	return r.serving() || r.state == StateStarting || r.state == StateStopping
}

// serving says that the run was ready and was not asked to stop.
func (r *Recorder) serving() bool { return r.state == StateReady || r.state == StateUnhealthy }
