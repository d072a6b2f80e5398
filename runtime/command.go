package runtime

import (
	"context"
	"fmt"
	"time"

	"github.com/osqvisor/osqvisor/internal/control"
)

// Restart ends an instance's run and starts a new one at once, out of a backoff or
// the park too; the backoff and the budget start over. It returns when the old run
// is gone; see WaitReady for the new one. When ctx ends first, it returns the cause
// and the restart goes on. While the Runner sleeps, the new run waits for Wake. A
// restart that is asked for before an earlier one has started its run is the same restart.
// Outside Run it does nothing. It fails with ErrNotFound.
func (r *Runner) Restart(ctx context.Context, id string) error {
	for {
		run, busy, err := r.askAgain(id)
		switch {
		case err != nil:
			return err
		case busy != nil:
			if err := await(ctx, busy); err != nil {
				return fmt.Errorf("instance %q: a change of it is under way: %w", id, err)
			}
			continue
		case run == nil:
			return nil
		}
		if err := await(ctx, run.over); err != nil {
			return fmt.Errorf("instance %q is still stopping: %w", id, err)
		}
		return nil
	}
}

// askAgain ends the current run, which it returns, and asks for another; or it gives
// the change that has to be waited for.
func (r *Runner) askAgain(id string) (run *liveRun, busy chan struct{}, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m, ok := r.members[id]
	switch {
	case !ok:
		return nil, nil, notFound(id)
	case m.busy != nil:
		return nil, m.busy, nil
	case m.done == nil:
		return nil, nil, nil
	}
	if m.run != nil {
		m.run.cancel()
	}
	r.unpark(m)
	return m.run, nil, nil
}

// unpark is called under the lock. From here on the member counts as on its way up.
func (r *Runner) unpark(m *member) {
	m.again, m.parked = true, false
	m.notify()
	m.poke()
}

// Resume starts a parked instance again; its backoff and its budget start over. It
// returns at once. It fails with ErrNotFound or ErrNotParked.
func (r *Runner) Resume(id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	m, ok := r.members[id]
	switch {
	case !ok || m.in == nil:
		return notFound(id)
	case !m.parked:
		return fmt.Errorf("instance %q: %w", id, ErrNotParked)
	}
	r.unpark(m)
	return nil
}

// Sleep says that the machine is about to sleep. Until Wake no run is started: those
// that become due, by a backoff, Add, Update, Resume or Restart, wait, and a run that
// fails meanwhile counts against no budget. What runs goes on running, and
// no failed health check from before Wake counts; a start that is under way goes on. It
// returns at once and may be called at any time, in or outside Run, any number of times.
//
// Wake may get lost: after 10 minutes, in which the machine ran, the
// Runner counts as awake.
func (r *Runner) Sleep() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.asleep == nil {
		r.asleep = make(chan struct{})
		r.alarmClock = time.AfterFunc(control.SleepLimit, r.overslept(r.asleep))
		r.tellSleep()
	}
}

// overslept wakes the Runner from the sleep of that channel. The timer's goroutine waits for
// nothing but the lock.
func (r *Runner) overslept(asleep chan struct{}) func() {
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.asleep == asleep {
			r.wake()
		}
	}
}

// Wake says that the machine is awake. What became due since Sleep is started at
// once, within the start limit. It returns at once and does nothing while awake.
func (r *Runner) Wake() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.asleep != nil {
		r.alarmClock.Stop()
		r.wake()
	}
}

// wake is called under the lock.
func (r *Runner) wake() {
	close(r.asleep)
	r.asleep = nil
	r.tellSleep()
}

// tellSleep is called under the lock; SetAsleep waits for nothing.
func (r *Runner) tellSleep() {
	for _, m := range r.members {
		if m.in != nil {
			m.in.SetAsleep(r.asleep != nil)
		}
	}
}

// sleeping gives what is closed when the Runner wakes; nil while it is awake.
func (r *Runner) sleeping() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.asleep
}
