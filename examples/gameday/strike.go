package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/instance/osquerydtest"
	"github.com/osqvisor/osqvisor/stats"
)

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

// update gives the victim other options.
func (s *strike) update(ctx context.Context, opts ...instance.Option) error {
	s.asked = true
	return s.w.runner.Update(ctx, s.id, opts...)
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

// causes gives the causes that were reported, and how many of them are wrong.
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
