package main

import (
	"context"
	"errors"

	"github.com/osqvisor/osqvisor/instance/osquerydtest"
	"github.com/osqvisor/osqvisor/stats"
)

// killFaults end, freeze and deafen processes.
func killFaults() []fault {
	ended, signalled := kinds(stats.RunEnded{}), anyOf(stats.CauseSignal)
	return []fault{
		{
			name: "kill -9 of the watcher", notice: ended, causes: signalled,
			inject: func(_ context.Context, s *strike) error { return kill(s.before.watcher) },
		},
		{
			name: "kill -9 of the worker", notice: kinds(stats.WorkerLost{}), settle: kinds(stats.WorkerReplaced{}),
			inject: func(_ context.Context, s *strike) error { return kill(s.before.worker) },
		},
		{
			name: "kill -9 of both", notice: ended, causes: signalled,
			inject: func(_ context.Context, s *strike) error {
				return errors.Join(kill(s.before.watcher), kill(s.before.worker))
			},
		},
		{
			name: "kill -9 of the group", notice: ended, causes: signalled,
			inject: func(_ context.Context, s *strike) error { return killGroup(s.before.watcher) },
		},
		{
			name: "SIGSTOP of the worker", notice: kinds(stats.HealthFailed{}), causes: anyOf(stats.CauseUnhealthy),
			impossible: needsSignals,
			inject:     func(_ context.Context, s *strike) error { return freeze(s.before.worker) },
		},
		{
			name: "SIGTERM ignored", notice: ended, causes: anyOf(stats.CauseRequested), sees: killedInTheEnd,
			impossible: needsSignals, inject: ignoreTerm,
		},
	}
}

// killedInTheEnd says that a requested stop took a kill.
func killedInTheEnd(_ *strike, e stats.Event) bool {
	end, ok := e.(stats.RunEnded)
	return ok && end.Signal == "SIGKILL"
}

// ignoreTerm makes osqueryd deaf to SIGTERM and asks for a restart. A real one is
// frozen, which comes to the same.
func ignoreTerm(ctx context.Context, s *strike) error {
	if s.w.fake == nil {
		if err := errors.Join(freeze(s.before.watcher), freeze(s.before.worker)); err != nil {
			return err
		}
		return s.restart(ctx)
	}
	watcher, err := s.watcher(ctx)
	if err != nil {
		return err
	}
	deaf := osquerydtest.Action{Do: osquerydtest.IgnoreTerm}
	if err := errors.Join(watcher.Do(ctx, deaf), s.tell(ctx, deaf)); err != nil {
		return err
	}
	return s.restart(ctx)
}
