package gameday

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/osqvisor/osqvisor/instance"
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

// killedInTheEnd reports that a requested stop took a kill.
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

// exitFaults are osqueryds that leave by themselves, or do not come up.
func exitFaults() []fault {
	var out []fault
	for _, code := range []int{0, 1, 78} {
		out = append(out, exitAtOnce(code), exitAfterReady(code))
	}
	return append(out,
		fault{
			name: "never opens the socket", notice: kinds(stats.RunEnded{}), fakeOnly: noScript,
			causes: anyOf(stats.CauseStartTimeout),
			inject: func(ctx context.Context, s *strike) error {
				err := s.misbehave(ctx, 0, osquerydtest.Rule{
					Phase: osquerydtest.PhaseBeforeSocket, Action: osquerydtest.Action{Do: osquerydtest.NoSocket},
				})
				if err != nil {
					return err
				}
				return s.update(ctx, instance.WithTimeouts(timeouts(1500*time.Millisecond)))
			},
			mend: func(ctx context.Context, s *strike) error {
				s.behave()
				return s.update(ctx, instance.WithTimeouts(timeouts(startPatience)))
			},
		},
		fault{
			name: "opens the socket late", notice: kinds(stats.RunReady{}), fakeOnly: noScript,
			sees: func(_ *strike, e stats.Event) bool {
				ready, ok := e.(stats.RunReady)
				return ok && ready.Elapsed >= time.Second
			},
			inject: func(ctx context.Context, s *strike) error {
				err := s.misbehave(ctx, 1, osquerydtest.Rule{
					Phase:  osquerydtest.PhaseBeforeSocket,
					Action: osquerydtest.Action{Do: osquerydtest.Delay, Delay: time.Second},
				})
				if err != nil {
					return err
				}
				return s.restart(ctx)
			},
		},
	)
}

// exitsWith wants the end of a run that left with a code, and without a word.
func exitsWith(code int) func(*strike, stats.Event) bool {
	return func(_ *strike, e stats.Event) bool {
		end, ok := e.(stats.RunEnded)
		return ok && end.Code == code && end.Cause == stats.CauseExit
	}
}

// exitAtOnce has the next two runs leave before they do anything.
func exitAtOnce(code int) fault {
	return fault{
		name: fmt.Sprintf("exit %d at once", code), notice: kinds(stats.RunEnded{}), fakeOnly: noScript,
		causes: anyOf(stats.CauseExit), sees: exitsWith(code),
		inject: func(ctx context.Context, s *strike) error {
			err := s.misbehave(ctx, 2, osquerydtest.Rule{
				Phase: osquerydtest.PhaseStart, Role: osquerydtest.RoleWatcher,
				Action: osquerydtest.Action{Do: osquerydtest.Exit, Code: code},
			})
			if err != nil {
				return err
			}
			return s.restart(ctx)
		},
	}
}

// exitAfterReady has a run leave that served. A real osqueryd does so with 0 alone, when
// somebody else asks it to.
func exitAfterReady(code int) fault {
	f := fault{
		name: fmt.Sprintf("exit %d after ready", code), notice: kinds(stats.RunEnded{}),
		causes: anyOf(stats.CauseExit), sees: exitsWith(code),
		inject: func(ctx context.Context, s *strike) error {
			if s.w.fake == nil {
				return terminate(s.before.watcher)
			}
			watcher, err := s.watcher(ctx)
			if err != nil {
				return err
			}
			return watcher.Do(ctx, osquerydtest.Action{Do: osquerydtest.Exit, Code: code})
		},
	}
	if code != 0 {
		f.fakeOnly = noScript
	}
	return f
}

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
