package main

import (
	"context"
	"fmt"
	"time"

	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/instance/osquerydtest"
	"github.com/osqvisor/osqvisor/stats"
)

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
				return s.update(ctx, instance.WithStartTimeout(1500*time.Millisecond))
			},
			mend: func(ctx context.Context, s *strike) error {
				s.behave()
				return s.update(ctx, instance.WithStartTimeout(startPatience))
			},
		},
		fault{
			name: "opens the socket late", notice: kinds(stats.RunReady{}), fakeOnly: noScript,
			sees: func(_ *strike, e stats.Event) bool {
				ready, ok := e.(stats.RunReady)
				return ok && ready.Took >= time.Second
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
