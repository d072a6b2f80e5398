package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
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

// leavesOut says why a fault cannot be injected into this world; empty when it can.
func (w *world) leavesOut(f fault) string {
	if w.fake == nil && f.fakeOnly != "" {
		return f.fakeOnly
	}
	if f.impossible != nil {
		return f.impossible(w)
	}
	return ""
}
