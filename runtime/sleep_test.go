package runtime

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/osqvisor/osqvisor/internal/control"
	"github.com/osqvisor/osqvisor/stats"
)

func TestSleepHoldsRestartsBack(t *testing.T) {
	live := func(ctx context.Context, n int) error {
		if n < 4 {
			return dying(10*time.Second, stats.CauseExit)(ctx, n)
		}
		return lasting(ctx, n)
	}
	policy := WithRestart(RestartPolicy{Jitter: -1, Budget: 3})
	bubble(t, live, func(t *testing.T, r *Runner, f *fakes) {
		after(10 * time.Second) // dies, starts again at once
		wantRuns(t, f, 2)
		r.Sleep()
		r.Sleep() // once is enough
		after(control.SleepLimit / 2)
		wantRuns(t, f, 2)
		r.Wake()
		r.Wake()
		synctest.Wait()
		wantRuns(t, f, 3)       // what became due meanwhile, at once
		after(10 * time.Second) // the second failure that counts: 1 s
		wantRuns(t, f, 3)
		after(time.Second)
		wantRuns(t, f, 4)
		if n := len(of[stats.InstanceParked](f)); n != 0 {
			t.Error("a failure during sleep counted against the budget")
		}
	}, policy)
}

func TestBackoffThatEndsDuringSleepWaitsForWake(t *testing.T) {
	live := func(ctx context.Context, n int) error {
		if n == 1 {
			return failing(stats.CauseCrashLoop)(ctx, n)
		}
		return lasting(ctx, n)
	}
	bubble(t, live, func(t *testing.T, r *Runner, f *fakes) {
		r.Sleep()
		after(10 * time.Second)
		r.Wake()
		synctest.Wait()
		wantRuns(t, f, 1) // not due yet
		r.Sleep()
		after(control.SleepLimit / 2)
		wantRuns(t, f, 1)
		r.Wake()
		synctest.Wait()
		wantRuns(t, f, 2)
	})
}

func TestRestartAndAddDuringSleepStartOnWake(t *testing.T) {
	bubble(t, lasting, func(t *testing.T, r *Runner, f *fakes) {
		r.Sleep()
		if err := r.Restart(t.Context(), "vendor"); err != nil { // returns: the old run is gone
			t.Fatal(err)
		}
		if err := r.Add("tenant"); err != nil {
			t.Fatal(err)
		}
		after(control.SleepLimit / 2)
		wantRuns(t, f, 1)
		r.Wake()
		synctest.Wait()
		wantRuns(t, f, 3)
	})
}

func TestRunEndsDuringSleepBackoffAndPark(t *testing.T) {
	for name, live := range map[string]life{
		"backoff": failing(stats.CauseCrashLoop), "park": failing(stats.CauseFlagRefused), "run": lasting,
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, live, func(_ *testing.T, r *Runner, _ *fakes) { r.Sleep() })
		})
	}
}

// A restart that is asked for between runs is answered by the next one, and must not
// excuse its failure.
func TestRestartDuringSleepIsSpentOnce(t *testing.T) {
	live := func(ctx context.Context, n int) error {
		if n == 2 {
			return dying(time.Second, stats.CauseCrashLoop)(ctx, n)
		}
		return lasting(ctx, n)
	}
	bubble(t, live, func(t *testing.T, r *Runner, f *fakes) {
		r.Sleep()
		for range 2 { // the second finds no run
			if err := r.Restart(t.Context(), "vendor"); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		r.Wake()
		after(30 * time.Second) // run 2 is dead, and a minute of backoff half over
		wantRuns(t, f, 2)
		after(time.Minute)
		wantRuns(t, f, 3)
	})
}

// Running instances are told, so that they judge nobody by what the sleep did to them.
func TestSleepIsToldToEveryInstance(t *testing.T) {
	bubble(t, lasting, func(t *testing.T, r *Runner, f *fakes) {
		want := func(asleep bool) {
			t.Helper()
			for i, in := range f.made {
				if in.asleep.Load() != asleep {
					t.Errorf("instance %d was told %v, want %v", i, in.asleep.Load(), asleep)
				}
			}
		}
		r.Sleep()
		if err := r.Add("tenant"); err != nil {
			t.Fatal(err)
		}
		want(true)
		r.Wake()
		want(false)
	})
}

// A Wake that gets lost holds nothing back for ever, and neither wakes the Runner from its
// next sleep.
func TestTrial26SleepWithoutWakeEnds(t *testing.T) {
	live := func(ctx context.Context, n int) error {
		if n == 1 {
			return dying(time.Second, stats.CauseExit)(ctx, n)
		}
		return lasting(ctx, n)
	}
	bubble(t, live, func(t *testing.T, r *Runner, f *fakes) {
		r.Sleep()
		r.Wake()
		after(control.SleepLimit / 2)
		wantRuns(t, f, 2)
		r.Sleep()
		if err := r.Restart(t.Context(), "vendor"); err != nil {
			t.Fatal(err)
		}
		after(control.SleepLimit - time.Second) // the timer of the first sleep would have ended it
		wantRuns(t, f, 2)
		after(time.Second)
		wantRuns(t, f, 3)
		r.Wake() // comes late, and does nothing
	})
}
