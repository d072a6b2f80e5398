package gameday

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/instance/osquerydtest"
	"github.com/osqvisor/osqvisor/stats"
)

// outcome is a row of the table.
type outcome struct {
	fault     string
	victim    string
	detected  string
	cause     string
	recovery  time.Duration
	disturbed []string // other instances, and by what
	orphans   []string
	wrong     int
	err       error // it was not noticed, or did not recover
}

// pick chooses a victim.
func (w *world) pick(dice *rand.Rand, f fault) string {
	n := dice.IntN(len(w.ids)) // thrown in any case: the same seed gives the same victims
	if f.onFull {
		return w.small
	}
	return w.ids[n]
}

// drill injects a fault and sees it through to the end.
func (w *world) drill(ctx context.Context, f fault, id string) outcome {
	out := outcome{fault: f.name, victim: id}
	ctx, cancel := context.WithTimeoutCause(ctx, w.patience(), fmt.Errorf("%v have passed", w.patience()))
	defer cancel()
	lives, err := w.askAll(ctx)
	if err != nil {
		out.err = fmt.Errorf("before the fault: %w", err)
		return out
	}
	s := &strike{w: w, f: f, id: id, before: lives[id], from: w.journal.len(), hit: time.Now()}
	others := w.watchOthers(ctx, id, lives)
	out.err = w.seeThrough(ctx, s, &out)
	out.recovery = time.Since(s.hit)
	s.cleanUp()
	out.disturbed = others.verdict(ctx)
	out.orphans = w.strays(ctx)
	reported, wrong := s.causes()
	out.wrong = wrong
	out.cause = "none"
	if len(reported) > 0 {
		out.cause = fmt.Sprint(reported[0])
		for _, c := range reported[1:] {
			out.cause += ", " + string(c)
		}
	}
	return out
}

// seeThrough follows one strike from the injection to the answer of a query.
func (w *world) seeThrough(ctx context.Context, s *strike, out *outcome) (err error) {
	if err := s.f.inject(ctx, s); err != nil {
		return fmt.Errorf("inject: %w", err)
	}
	if out.detected, err = s.noticed(ctx); err != nil {
		return fmt.Errorf("not noticed by %s: %w", strings.Join(s.f.notice, " or "), err)
	}
	if err := s.ended(ctx); err != nil {
		return fmt.Errorf("no run ended by %v: %w", s.f.causes, err)
	}
	if s.f.mend != nil {
		if err := s.f.mend(ctx, s); err != nil {
			return fmt.Errorf("mend: %w", err)
		}
	}
	if err := s.settled(ctx); err != nil {
		return fmt.Errorf("no word of %s: %w", strings.Join(s.f.settle, " or "), err)
	}
	return w.recovered(ctx, s)
}

// recovered waits until the victim is ready and answers a query.
func (w *world) recovered(ctx context.Context, s *strike) error {
	for {
		if err := w.runner.WaitReady(ctx, s.id); err != nil {
			return fmt.Errorf("not ready again: %w", err)
		}
		l, err := w.ask(ctx, s.id)
		switch {
		case err == nil && (len(s.f.causes) == 0 || l.run != s.before.run):
			return nil
		case ctx.Err() != nil:
			return fmt.Errorf("no query was answered: %w", errors.Join(context.Cause(ctx), err))
		}
		pause(ctx, 10*time.Millisecond)
	}
}

// pause waits for d, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// repeatable are the faults that are quick enough to be injected at random.
func (w *world) repeatable(faults []fault) []fault {
	return slices.DeleteFunc(slices.Clone(faults), func(f fault) bool { return w.fake == nil && f.slow })
}

// leavesOut is why a fault cannot be injected into this world; empty when it can.
func (w *world) leavesOut(f fault) string {
	if w.fake == nil && f.fakeOnly != "" {
		return f.fakeOnly
	}
	if f.impossible != nil {
		return f.impossible(w)
	}
	return ""
}

// strike is one fault injected into one victim.
type strike struct {
	w      *world
	f      fault
	id     string
	before life
	from   int       // of the journal: events before do not count
	hit    time.Time // when it was injected
	asked  bool      // we had a run stopped, which is no failure
	proof  string    // what inject saw with its own eyes
	holder *helper   // of a file of the victim; nil when there is none
	undo   []func()
}

// saw leaves evidence: what inject itself saw of the fault being handled.
func (s *strike) saw(format string, args ...any) { s.proof = fmt.Sprintf(format, args...) }

// finally is done when the victim has recovered, in the opposite order.
func (s *strike) finally(f func()) { s.undo = append(s.undo, f) }

func (s *strike) cleanUp() {
	for _, f := range slices.Backward(s.undo) {
		f()
	}
	s.undo = nil
}

// now is the moment of the fault, when inject had to prepare something.
func (s *strike) now() { s.hit = time.Now() }

// restart has the victim stopped and started.
func (s *strike) restart(ctx context.Context) error {
	s.asked = true
	return s.w.runner.Restart(ctx, s.id)
}

// update adds options to the victim's own, and has it stopped and started.
func (s *strike) update(ctx context.Context, opts ...instance.Option) error {
	s.asked = true
	if _, err := s.w.runner.Update(ctx, s.id, append(s.w.own(s.id), opts...)...); err != nil {
		return err
	}
	return s.w.runner.Restart(ctx, s.id)
}

// worker is the fake worker of the victim.
func (s *strike) worker(ctx context.Context) (*osquerydtest.Process, error) {
	return s.w.fake.WaitWorker(ctx, s.w.mark(s.id))
}

// watcher is the fake watcher of the victim.
func (s *strike) watcher(ctx context.Context) (*osquerydtest.Process, error) {
	p, err := s.worker(ctx)
	if err != nil {
		return nil, err
	}
	w, ok := p.Watcher()
	if !ok {
		return nil, fmt.Errorf("%s has no watcher", p)
	}
	return w, nil
}

// tell makes the victim's worker misbehave.
func (s *strike) tell(ctx context.Context, a osquerydtest.Action) error {
	p, err := s.worker(ctx)
	if err != nil {
		return err
	}
	s.now()
	return p.Do(ctx, a)
}

// misbehave makes the victim's next runs misbehave, by a rule of the fake's script.
func (s *strike) misbehave(ctx context.Context, runs int, r osquerydtest.Rule) error {
	p, err := s.worker(ctx)
	if err != nil {
		return err
	}
	r.Instance = s.w.mark(s.id)
	if runs > 0 {
		r.Runs = p.Run() + runs
	}
	s.finally(s.behave)
	return s.w.fake.SetScript(s.w.script().WithRule(r))
}

// behave ends what misbehave began.
func (s *strike) behave() {
	if err := s.w.fake.SetScript(s.w.script()); err != nil {
		s.w.log.Error("the script of the fake", "err", err)
	}
}

// noticed waits for what the fault must lead to, and says what it was.
func (s *strike) noticed(ctx context.Context) (string, error) {
	if len(s.f.notice) == 0 {
		if s.proof == "" {
			return "", fmt.Errorf("it left no trace")
		}
		return s.proof, nil
	}
	e, err := s.await(ctx, s.f.notice, func(e stats.Event) bool {
		return s.f.sees == nil || s.f.sees(s, e)
	})
	if err != nil {
		return "", err
	}
	return e.Kind(), nil
}

// await waits for an event of the victim since the strike began.
func (s *strike) await(ctx context.Context, kinds []string, want func(stats.Event) bool) (stats.Event, error) {
	return s.w.journal.wait(ctx, s.from, func(e stats.Event) bool {
		return e.Meta().Instance == s.id && slices.Contains(kinds, e.Kind()) && (want == nil || want(e))
	})
}

// ended waits for the end of a run by one of the fault's causes.
func (s *strike) ended(ctx context.Context) error {
	if len(s.f.causes) == 0 {
		return nil
	}
	_, err := s.await(ctx, kinds(stats.RunEnded{}), func(e stats.Event) bool {
		return slices.Contains(s.f.causes, e.(stats.RunEnded).Cause)
	})
	return err
}

// settled waits until the SDK says that it is over.
func (s *strike) settled(ctx context.Context) error {
	if len(s.f.settle) == 0 {
		return nil
	}
	_, err := s.await(ctx, s.f.settle, nil)
	return err
}

// causes returns the causes that were reported, and how many of them are wrong.
func (s *strike) causes() (reported []stats.Cause, wrong int) {
	for _, e := range s.w.journal.since(s.from) {
		end, ok := e.(stats.RunEnded)
		if !ok || end.Instance != s.id || s.asked && end.Cause == stats.CauseRequested && !slices.Contains(s.f.causes, end.Cause) {
			continue
		}
		if slices.Contains(s.f.also, end.Cause) && !slices.Contains(s.f.causes, end.Cause) {
			continue
		}
		reported = append(reported, end.Cause)
		if !slices.Contains(s.f.causes, end.Cause) {
			wrong++
		}
	}
	if len(s.f.causes) > 0 && len(reported) == 0 {
		wrong++
	}
	return slices.Compact(reported), wrong
}

// killCurrent kills whatever run the victim has now.
func (s *strike) killCurrent() error {
	in, err := s.w.runner.Instance(s.id)
	if err != nil {
		return err
	}
	if pid := in.PID(); pid != 0 {
		return killGroup(pid)
	}
	return nil
}
