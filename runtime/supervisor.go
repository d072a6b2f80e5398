package runtime

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"time"

	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/internal/control"
	"github.com/osqvisor/osqvisor/stats"
)

// supervisor keeps one member alive during one Run of the Runner. It belongs to
// one goroutine.
type supervisor struct {
	r      *Runner
	m      *member
	in     subject
	ledger *ledger
	log    *slog.Logger
	found  control.Conditions // before the run
}

// newSupervisor is called under the lock.
func newSupervisor(r *Runner, m *member) *supervisor {
	return &supervisor{r: r, m: m, in: m.in, ledger: newLedger(r.o.policy), log: r.log.With("instance", m.id)}
}

// run returns when ctx has ended and nothing of the member is left.
func (s *supervisor) run(ctx context.Context) {
	for s.awake(ctx) {
		s.found = s.look(ctx)
		began := time.Now()
		err := s.runOnce(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case s.takeAgain():
			s.ledger.clear()
		default:
			f := failureOf(err, time.Since(began))
			s.setSick(!f.ready)
			s.settle(ctx, f, err)
		}
	}
}

// awake waits until the machine does not sleep; false when ctx ended.
func (s *supervisor) awake(ctx context.Context) bool {
	for ctx.Err() == nil {
		wake := s.r.sleeping()
		if wake == nil {
			return true
		}
		s.shipping(ctx, func() { _ = await(ctx, wake) }) // either is looked at again
	}
	return false
}

// shipping delivers what the instance has queued while wait lasts. A run does so by
// itself.
func (s *supervisor) shipping(ctx context.Context, wait func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.ship(ctx)
	}()
	wait()
	cancel()
	<-done
}

// shipAgain is the wait after a delivery that failed: for want of room, or because another
// host has the directory, both of which pass while an instance is parked for days.
const shipAgain = 30 * time.Second

// ship retries until ctx ends; it warns on the first failure only.
func (s *supervisor) ship(ctx context.Context) {
	for level := slog.LevelWarn; ctx.Err() == nil; level = slog.LevelDebug {
		err := s.in.Ship(ctx)
		if err == nil {
			return
		}
		s.log.Log(ctx, level, "logs are not delivered between runs", "err", err)
		timer := time.NewTimer(shipAgain)
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// runOnce is one run, which Restart can end.
func (s *supervisor) runOnce(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	run := &liveRun{cancel: cancel, over: make(chan struct{})}
	s.setRun(run)
	defer close(run.over)
	defer s.setRun(nil)
	return s.in.Run(ctx)
}

// setRun makes run the current one. It is the answer to every restart that was
// requested before it; the next ones end it.
func (s *supervisor) setRun(run *liveRun) {
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	if run != nil && s.m.again {
		s.m.again = false
		s.ledger.clear()
	}
	s.m.run = run
	s.m.notify()
}

// takeAgain reports whether the host requested a new run, once.
func (s *supervisor) takeAgain() bool {
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	asked := s.m.again
	s.m.again = false
	return asked
}

// settle does what follows from a failed run, and waits until the next one is due.
func (s *supervisor) settle(ctx context.Context, f failure, err error) {
	if s.r.sleeping() != nil {
		s.in.Record(ctx, stats.RestartScheduled{Head: head(s.m.id), Cause: f.cause, Attempt: 1})
		return
	}
	v := s.ledger.judge(f)
	if v.park {
		s.park(ctx, f, v, err)
		return
	}
	s.in.Record(ctx, stats.RestartScheduled{Head: head(s.m.id), Cause: f.cause, Delay: v.delay, Attempt: v.attempt})
	if v.delay > 0 { // to open and close the queues for nothing would hold up the new start
		s.shipping(ctx, func() { s.wait(ctx, v.delay, true) })
	}
}

// wait ends after d, when the host requests a new run, with ctx, or, if watch is set, when
// what may have stood in the way of a start has changed. It returns why.
func (s *supervisor) wait(ctx context.Context, d time.Duration, watch bool) stats.ResumeReason {
	timer := time.NewTimer(d)
	defer timer.Stop()
	w := s.newWatch(ctx, watch)
	defer w.stop()
	for !s.takeAgain() {
		select {
		case <-s.m.wake: // perhaps from before; look
		case <-w.due():
			if why := w.look(ctx); why != "" {
				s.log.Debug("what may have kept osqueryd from starting has changed; it is started again", "reason", why)
				s.ledger.clear()
				return why
			}
		case <-timer.C:
			return stats.ResumedByTime
		case <-ctx.Done():
			return ""
		}
	}
	s.ledger.clear()
	return stats.ResumedByHost
}

// forever is the longest wait there is.
const forever = time.Duration(math.MaxInt64)

// park waits for as long as the policy sets, or until the host wants the instance back.
func (s *supervisor) park(ctx context.Context, f failure, v verdict, err error) {
	s.setParked(true) // first: an observer of the event may resume it
	defer s.setParked(false)
	s.in.Record(ctx, stats.InstanceParked{
		Head: head(s.m.id), Cause: f.cause, For: v.delay, Failures: v.failures, Window: s.ledger.policy.Window, Err: err,
	})
	s.announceParked()
	var why stats.ResumeReason
	s.shipping(ctx, func() { why = s.wait(ctx, cmp.Or(v.delay, forever), v.delay > 0) })
	if ctx.Err() == nil {
		s.in.Record(ctx, stats.InstanceResumed{Head: head(s.m.id), Reason: why})
	}
}

// setSick decides on the place of the next starts.
func (s *supervisor) setSick(sick bool) {
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	s.m.sick = sick
}

func (s *supervisor) setParked(parked bool) {
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	s.m.parked = parked && !s.m.again // what was requested meanwhile is about to be done
	s.m.parkedTold = false
	s.m.notify()
}

// announceParked ends WaitReady: from here on a snapshot shows the park too.
func (s *supervisor) announceParked() {
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	s.m.parkedTold = true
	s.m.notify()
}

// failureOf reads the failure from a run's end.
func failureOf(err error, lasted time.Duration) failure {
	f := failure{at: time.Now(), cause: stats.CauseUnknown, lasted: lasted}
	if exit, ok := errors.AsType[*instance.ExitError](err); ok {
		f.cause, f.ready = exit.Cause, exit.Phase == stats.PhaseServe
		f.lasted = cmp.Or(exit.Uptime, lasted) // to wait for its turn to start is no sign of health
	}
	return f
}

const (
	lookEvery   = time.Second // at what may stand in the way of an instance that waits
	lookTimeout = time.Second // a file system may hang
	littleRoom  = 64 << 20    // bytes, below which a file system counts as full
	moreRoom    = 16 << 20    // bytes, by which it has room again
)

// watch notices, while an instance waits for its next start, that what may have kept it
// from starting has changed. A change of the binary is believed when two looks found the
// same, since copying one takes time.
type watch struct {
	s      *supervisor
	timer  *time.Timer // nil when nothing is looked at
	before control.Conditions
	last   control.Conditions
}

// newWatch compares with the binary as it was before the run that failed, and with the
// room that is left now.
func (s *supervisor) newWatch(ctx context.Context, on bool) *watch {
	w := &watch{s: s}
	if on {
		w.last = s.look(ctx)
		w.before = control.Conditions{Binary: s.found.Binary, Free: w.last.Free}
		w.timer = time.NewTimer(untilLook(time.Now()))
	}
	return w
}

// untilLook ends at a moment that all instances have in common, so that many of them wake
// the host once.
func untilLook(now time.Time) time.Duration {
	return now.Truncate(lookEvery).Add(lookEvery).Sub(now)
}

func (w *watch) due() <-chan time.Time {
	if w.timer == nil {
		return nil
	}
	return w.timer.C
}

func (w *watch) stop() {
	if w.timer != nil {
		w.timer.Stop()
	}
}

// look returns what has changed, or nothing.
func (w *watch) look(ctx context.Context) stats.ResumeReason {
	now := w.s.look(ctx)
	w.timer.Reset(untilLook(time.Now()))
	last := w.last
	w.last = now
	switch {
	case now.Binary != "" && now.Binary != w.before.Binary && now.Binary == last.Binary:
		return stats.ResumedByBinary
	case w.before.Free >= 0 && w.before.Free < littleRoom && now.Free >= w.before.Free+moreRoom:
		return stats.ResumedByRoom
	}
	return ""
}

// look finds nothing when the disk does not answer.
func (s *supervisor) look(ctx context.Context) control.Conditions {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	c, err := s.in.Conditions(ctx)
	if err != nil {
		return control.Conditions{Free: -1}
	}
	return c
}

// Restart ends an instance's run and starts a new one at once, also out of a backoff or the
// park. It returns when the old run is gone; see WaitReady for the new one. When ctx ends first,
// it returns the cause, and the restart goes on. Outside Run it does nothing. It fails with
// ErrNotFound.
func (r *Runner) Restart(ctx context.Context, id string) error {
	for {
		run, busy, err := r.endRun(id)
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

// endRun ends the current run, which it returns, and requests another; or it returns
// the change that has to be waited for.
func (r *Runner) endRun(id string) (run *liveRun, busy chan struct{}, err error) {
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

// Resume starts a parked instance again, with a new budget. It fails with ErrNotFound or
// ErrNotParked.
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

// Sleep reports that the machine is about to sleep. Until Wake, or for 10 minutes of running time
// if that gets lost, no run is started, and failed runs and health checks do not count. Call it
// on systems that announce a sleep, in or outside Run.
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

// Wake reports that the machine is awake. What became due since Sleep is started at once.
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

// sleeping returns what is closed when the Runner wakes; nil while it is awake.
func (r *Runner) sleeping() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.asleep
}
