package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/osqvisor/osqvisor/instance/osquerydtest"
	"github.com/osqvisor/osqvisor/stats"
)

// hostFaults are in the program that uses the SDK.
func hostFaults() []fault {
	panicked := kinds(stats.PanicCaught{})
	return []fault{
		{
			name: "stderr flooded", fakeOnly: noScript,
			inject: func(ctx context.Context, s *strike) error {
				err := s.tell(ctx, osquerydtest.Action{Do: osquerydtest.FloodStderr, Bytes: s.w.set.flood})
				s.saw("%d MB were read", s.w.set.flood>>20)
				return err
			},
		},
		{
			name: "host plugin panics", notice: panicked,
			inject: func(ctx context.Context, s *strike) error {
				s.w.tables.shake(s.id, true)
				s.finally(func() { s.w.tables.shake(s.id, false) })
				ctx, cancel := context.WithTimeout(ctx, answerPatience)
				defer cancel()
				if _, err := s.w.runner.Query(ctx, s.id, "select * from "+tableName); err == nil {
					return fmt.Errorf("the query succeeded though its table panicked")
				}
				return nil
			},
		},
		{
			name: "host transport hangs for ever", notice: kinds(stats.TransportFailed{}), causes: anyOf(stats.CauseSignal),
			inject: func(_ context.Context, s *strike) error {
				s.finally(s.w.sink.hang(s.id)) // until it has recovered without
				return killGroup(s.before.watcher)
			},
		},
		{
			name: "observer panics", notice: panicked, settle: kinds(stats.WorkerReplaced{}),
			inject: func(_ context.Context, s *strike) error {
				s.w.journal.shake(s.id, true)
				s.finally(func() { s.w.journal.shake(s.id, false) })
				return kill(s.before.worker)
			},
		},
		{name: "kill -9 of the host itself", inject: killHost},
	}
}

// hostGone is how long osqueryd may live on when its host was killed.
const hostGone = 2 * time.Second

// killHost gives the victim to another host, kills that, and takes the victim back.
func killHost(ctx context.Context, s *strike) error {
	s.asked = true
	if err := s.w.runner.Remove(ctx, s.id); err != nil {
		return err
	}
	gone, err := s.otherHost(ctx)
	if err != nil {
		return fmt.Errorf("another host: %w", errors.Join(err, s.w.add(s.id)))
	}
	if err := s.w.add(s.id); err != nil {
		return err
	}
	if gone > hostGone && systemKillsOrphans {
		return fmt.Errorf("osqueryd outlived its host by %v", gone)
	}
	s.saw("its osqueryd went in %v", gone.Round(time.Millisecond))
	return nil
}

// otherHost runs the victim in another process, kills that, and measures how long its
// osqueryd lives on.
func (s *strike) otherHost(ctx context.Context) (gone time.Duration, err error) {
	args := []string{s.w.binary, s.w.root, s.id}
	h, err := startHelper("host", args...)
	if err != nil {
		return 0, err
	}
	defer func() { _ = h.leave() }()
	if err := h.wait(ctx); err != nil {
		return 0, err
	}
	if s.w.lines != nil { // acknowledged there, to be delivered here
		if err := s.w.lines.log(ctx, s.id, 50); err != nil {
			return 0, err
		}
	}
	s.now()
	if err := kill(h.pid()); err != nil {
		return 0, err
	}
	for len(s.w.foreign()) > 0 && time.Since(s.hit) < 2*hostGone {
		pause(ctx, 5*time.Millisecond)
	}
	return time.Since(s.hit), nil
}

// foreign are the processes of the game's osqueryd that are not this host's.
func (w *world) foreign() []inhabitant {
	var out []inhabitant
	for _, p := range w.inhabitants() {
		if !w.belongs(p) {
			out = append(out, p)
		}
	}
	return out
}
