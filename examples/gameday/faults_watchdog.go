package main

import (
	"context"
	"time"

	"github.com/osqvisor/osqvisor/instance/osquerydtest"
	"github.com/osqvisor/osqvisor/stats"
)

// Queries that bring a real osqueryd's watchdog down on its worker: they outgrow its
// memory, or its share of the CPU.
const (
	// It holds 600 MB while it sleeps, so that the watchdog, which looks every few
	// seconds, sees them before it sees any use of the CPU.
	greedyQuery = "select sleep(60), length(x) from (select randomblob(600000000) as x limit 1)"
	busyQuery   = "with recursive c(x) as (select 1 union all select x + 1 from c) select count(*) from c"
)

// watchdogFaults are osqueryd's own justice.
func watchdogFaults() []fault {
	killed, replaced := kinds(stats.WatchdogKilled{}), kinds(stats.WorkerReplaced{})
	return []fault{
		{
			name: "watchdog kill for memory", notice: killed, settle: replaced, sees: limited("memory"), slow: true,
			inject: provoke(osquerydtest.WatchdogMemory, greedyQuery),
		},
		{
			name: "watchdog kill for CPU", notice: killed, settle: replaced, sees: limited("cpu"), slow: true,
			inject: provoke(osquerydtest.WatchdogCPU, busyQuery),
		},
		{
			name: "crash loop until the watcher gives up", notice: kinds(stats.RunEnded{}),
			causes: anyOf(stats.CauseCrashLoop), slow: true, inject: crashLoop,
		},
	}
}

func limited(resource string) func(*strike, stats.Event) bool {
	return func(_ *strike, e stats.Event) bool {
		k, ok := e.(stats.WatchdogKilled)
		return ok && k.Resource == resource
	}
}

// provoke has the watchdog kill the worker.
func provoke(do osquerydtest.Kind, query string) func(context.Context, *strike) error {
	return func(ctx context.Context, s *strike) error {
		if s.w.fake != nil {
			return s.tell(ctx, osquerydtest.Action{Do: do})
		}
		if err := sampled(ctx); err != nil {
			return err
		}
		ctx, cancel := context.WithCancel(ctx)
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = s.w.runner.Query(ctx, s.id, query) // it dies with the worker
		}()
		s.finally(func() { cancel(); <-done })
		return nil
	}
}

// sampled waits until the watcher has looked at a new worker, which it does every 3 s:
// what a worker uses at the first look is what its growth is measured from.
func sampled(ctx context.Context) error {
	timer := time.NewTimer(8 * time.Second)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// crashLoop has every worker of one run die young.
func crashLoop(ctx context.Context, s *strike) error {
	if s.w.fake == nil {
		return killYoung(ctx, s)
	}
	err := s.misbehave(ctx, 1, osquerydtest.Rule{
		Phase: osquerydtest.PhaseStart, Role: osquerydtest.RoleWorker,
		Action: osquerydtest.Action{Do: osquerydtest.Kill},
	})
	if err != nil {
		return err
	}
	return s.restart(ctx)
}

// killYoung kills each worker as soon as it answers, until the run is over.
func killYoung(ctx context.Context, s *strike) error {
	for {
		l, err := s.w.ask(ctx, s.id)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			continue // between two workers
		case l.run != s.before.run:
			return nil
		}
		if err := kill(l.worker); err != nil {
			return err
		}
	}
}
