package tlstrial

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// When the trouble comes, as parts of -for. A step that the one before holds up
// follows it at once.
const (
	atKillOsqueryd = 0.20
	atForgetKeys   = 0.30
	atServerAway   = 0.45
	atKillAgent    = 0.55
	atKillAgain    = 0.65
	atServerBack   = 0.75
)

// scenario is the trial on a server of our own, with trouble.
type scenario struct {
	*stage
	srv *Server
}

// play takes the steps one after the other, and judges.
func (s *scenario) play(ctx context.Context, rep *Report) error {
	err := s.steps(ctx)
	if err == nil {
		err = s.drain(ctx, s.srv.Arrived)
	}
	if ctx.Err() != nil {
		err = ErrInterrupted
	}
	err = errors.Join(err, s.stopAgent())
	verdict := s.book.judge(s.srv.Arrived)
	rep.count(verdict)
	rep.Queries, rep.Reenrolments = s.srv.answered(), s.srv.reenrolments()
	s.progress.line("%d batches came again, with the same ids", verdict.Repeats)
	return errors.Join(err, s.expect(rep, verdict.Repeats))
}

// expect reports what is missing.
func (s *scenario) expect(rep *Report, repeats int) error {
	if repeats == 0 {
		return errors.New("no batch came again although answers were lost: nothing is shown")
	}
	if rep.Queries != s.srv.queried() {
		return fmt.Errorf("%d of %d distributed queries were answered", rep.Queries, s.srv.queried())
	}
	if want := len(Names()); rep.Reenrolments != want {
		return fmt.Errorf("%d enrolments after the first ones, not %d", rep.Reenrolments, want)
	}
	return nil
}

func (s *scenario) steps(ctx context.Context) error {
	for _, step := range []struct {
		at float64
		do func(context.Context) error
	}{
		{0, s.first},
		{atKillOsqueryd, func(ctx context.Context) error { return s.killOsqueryd(ctx, "tenant-a") }},
		{atForgetKeys, s.forgetKeys},
		{atServerAway, s.takeAway},
		{atKillAgent, s.killAgent},
		{atKillAgain, func(ctx context.Context) error { return s.killOsqueryd(ctx, "vendor") }},
		{atServerBack, s.bringBack},
		{1, func(context.Context) error { return nil }},
	} {
		if err := s.pause(ctx, step.at); err != nil {
			return err
		}
		if err := step.do(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (s *scenario) first(ctx context.Context) error {
	if err := s.startAgent(ctx); err != nil {
		return err
	}
	s.progress.line("the agent's three instances are ready")
	if err := s.look(ctx, "no lines arrive", s.allArrive); err != nil {
		return err
	}
	s.progress.line("lines arrive from all of them")
	s.srv.query()
	return s.answers(ctx)
}

// allArrive reports whether the server has lines of every instance.
func (s *scenario) allArrive() bool {
	for _, id := range Names() {
		if len(s.srv.Arrived(id)) == 0 {
			return false
		}
	}
	return true
}

func (s *scenario) answers(ctx context.Context) error {
	err := s.look(ctx, "not every distributed query is answered", func() bool { return s.srv.answered() == s.srv.queried() })
	if err == nil {
		s.progress.line("%d distributed queries are answered", s.srv.answered())
	}
	return err
}

func (s *scenario) killOsqueryd(ctx context.Context, victim string) error {
	before := s.book.page(victim)
	process, err := os.FindProcess(before.pid)
	if err == nil {
		err = process.Kill()
	}
	if err != nil {
		return fmt.Errorf("kill the osqueryd of %s, pid %d: %w", victim, before.pid, err)
	}
	killed := time.Now()
	s.progress.line("the osqueryd of %s is killed: SIGKILL to pid %d", victim, before.pid)
	err = s.wait(ctx, "is not ready after the kill", func(id string, p page) bool { return id != victim || p.ready > before.ready })
	if err == nil {
		s.progress.line("the osqueryd of %s is ready again after %v", victim, time.Since(killed).Round(time.Millisecond))
	}
	return err
}

func (s *scenario) forgetKeys(ctx context.Context) error {
	before := s.counts(func(p page) int { return p.reenrolment })
	s.srv.InvalidateKeys()
	s.progress.line("the server forgets all node keys")
	// The agent decides, not the server: the new keys must have arrived before it goes away.
	err := s.wait(ctx, "has not enrolled again", func(id string, p page) bool { return p.reenrolment > before[id] })
	if err == nil {
		s.progress.line("all have enrolled again")
	}
	return err
}

// takeAway leaves a query that no instance can fetch yet.
func (s *scenario) takeAway(context.Context) error {
	s.srv.Stop()
	s.srv.query()
	s.progress.line("the server is taken away")
	return nil
}

// killAgent kills it, and starts a new one. That has no server, so it lives
// on the last good config.
func (s *scenario) killAgent(ctx context.Context) error {
	if err := s.agent.kill(); err != nil {
		return err
	}
	killed := time.Now()
	s.progress.line("the agent is killed: SIGKILL")
	if err := s.startAgent(ctx); err != nil {
		return err
	}
	s.progress.line("a new agent's three instances are ready after %v, without a server", time.Since(killed).Round(time.Millisecond))
	return nil
}

func (s *scenario) bringBack(ctx context.Context) error {
	if err := s.srv.Start(); err != nil {
		return err
	}
	s.progress.line("the server is back")
	if err := s.answers(ctx); err != nil {
		return err
	}
	s.srv.query()
	return s.answers(ctx)
}
