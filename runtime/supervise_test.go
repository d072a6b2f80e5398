package runtime

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/osqvisor/osqvisor/stats"
)

func gaps(runs []time.Time) []time.Duration {
	var out []time.Duration
	for i := 1; i < len(runs); i++ {
		out = append(out, runs[i].Sub(runs[i-1]))
	}
	return out
}

func wantRuns(t *testing.T, f *fakes, n int) {
	t.Helper()
	if got := len(f.started()); got != n {
		t.Fatalf("%d runs were started, want %d", got, n)
	}
}

func TestRestartsFollowThePolicyUntilParked(t *testing.T) {
	bubble(t, failing(stats.CauseExit), func(t *testing.T, r *Runner, f *fakes) {
		after(time.Hour)
		want := []time.Duration{time.Second, 2 * time.Second, 4 * time.Second}
		got := gaps(f.started())
		if len(got) != len(want) {
			t.Fatalf("waits %v, want %v", got, want)
		}
		for i := range want {
			if got[i] != want[i] {
				t.Errorf("waits %v, want %v", got, want)
			}
		}
		parked := of[stats.InstanceParked](f)
		if len(parked) != 1 || parked[0].Failures != 4 || parked[0].Cause != stats.CauseExit || parked[0].Err == nil {
			t.Errorf("parked: %+v, want once, after 4 failures", parked)
		}
		if err := r.WaitReady(t.Context(), "vendor"); !errors.Is(err, ErrParked) {
			t.Errorf("WaitReady of a parked instance: %v, want ErrParked", err)
		}
	}, WithRestart(RestartPolicy{Jitter: -1, Budget: 4, ParkFor: -1}))
}

func TestResumeStartsOver(t *testing.T) {
	live := func(ctx context.Context, n int) error {
		if n == 1 {
			return failing(stats.CauseBinaryMissing)(ctx, n)
		}
		return lasting(ctx, n)
	}
	bubble(t, live, func(t *testing.T, r *Runner, f *fakes) {
		after(24 * time.Hour)
		wantRuns(t, f, 1)
		if err := r.Resume("vendor"); err != nil {
			t.Fatal(err)
		}
		if err := r.WaitReady(t.Context(), "vendor"); err != nil {
			t.Fatalf("WaitReady right after Resume: %v", err)
		}
		wantRuns(t, f, 2)
		if err := r.Resume("vendor"); !errors.Is(err, ErrNotParked) {
			t.Errorf("a second Resume: %v, want ErrNotParked", err)
		}
		if err := r.Resume("other"); !errors.Is(err, ErrNotFound) {
			t.Errorf("Resume of nobody: %v, want ErrNotFound", err)
		}
	}, WithRestart(RestartPolicy{ParkFor: -1}))
}

func TestRestartLeavesBackoffAndParkAtOnce(t *testing.T) {
	live := func(ctx context.Context, n int) error {
		switch n {
		case 1:
			return failing(stats.CauseCrashLoop)(ctx, n) // a minute of backoff
		case 2:
			return failing(stats.CauseFlagRefused)(ctx, n) // parked
		}
		return lasting(ctx, n)
	}
	bubble(t, live, func(t *testing.T, r *Runner, f *fakes) {
		for n := 2; n <= 3; n++ {
			after(time.Second)
			wantRuns(t, f, n-1)
			asked := time.Now()
			if err := r.Restart(t.Context(), "vendor"); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			wantRuns(t, f, n)
			if !time.Now().Equal(asked) {
				t.Error("a restart in backoff or the park did not start at once")
			}
		}
		if n := len(of[stats.InstanceResumed](f)); n != 1 {
			t.Errorf("%d InstanceResumed, want 1", n)
		}
	})
}

// A restart of a run that lives must leave nothing behind that would cut the next
// backoff short.
func TestRestartIsSpentOnce(t *testing.T) {
	live := func(ctx context.Context, n int) error {
		if n == 2 {
			return dying(time.Second, stats.CauseCrashLoop)(ctx, n)
		}
		return lasting(ctx, n)
	}
	bubble(t, live, func(t *testing.T, r *Runner, f *fakes) {
		if err := r.Restart(t.Context(), "vendor"); err != nil {
			t.Fatal(err)
		}
		after(30 * time.Second) // run 2 is dead, and a minute of backoff half over
		wantRuns(t, f, 2)
		after(time.Minute)
		wantRuns(t, f, 3)
	})
}

func TestRestartsAtTheSameTimeEachEndTheRunTheySaw(t *testing.T) {
	bubble(t, lasting, func(t *testing.T, r *Runner, f *fakes) {
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				if err := r.Restart(t.Context(), "vendor"); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		synctest.Wait()
		if n := len(f.started()); n < 2 || n > 21 {
			t.Errorf("%d runs, want 2 to 21", n)
		}
		if err := r.WaitReady(t.Context(), "vendor"); err != nil {
			t.Error(err)
		}
		if n := len(of[stats.RestartScheduled](f)); n != 0 {
			t.Errorf("%d restarts were booked as failures", n)
		}
	})
}

// Logs are delivered in every moment between runs.
func TestShipsWhileWaiting(t *testing.T) {
	for name, c := range map[string]stats.Cause{"backoff": stats.CauseCrashLoop, "park": stats.CauseFlagRefused} {
		t.Run(name, func(t *testing.T) {
			bubble(t, failing(c), func(t *testing.T, _ *Runner, f *fakes) {
				if !f.made[0].ships() {
					t.Error("nothing is delivered")
				}
			})
		})
	}
}

// What kept Ship from its work may pass while the instance is parked.
func TestShipIsTriedAgainWhileParked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, f := newFakeRunner(t, failing(stats.CauseFlagRefused))
		f.unsent = 2
		if err := r.Add("vendor"); err != nil {
			t.Fatal(err)
		}
		stop := running(t, r)
		synctest.Wait()
		for n, want := range []bool{false, false, true} {
			if got := f.made[0].ships(); got != want {
				t.Errorf("after %d waits it ships: %t, want %t", n, got, want)
			}
			after(shipAgain)
		}
		wantRuns(t, f, 1)
		stop()
	})
}

func TestParkedByACauseTellsOneFailure(t *testing.T) {
	live := func(ctx context.Context, n int) error {
		if n < 3 {
			return failing(stats.CauseExit)(ctx, n)
		}
		return failing(stats.CauseFlagRefused)(ctx, n)
	}
	bubble(t, live, func(t *testing.T, _ *Runner, f *fakes) {
		after(time.Minute)
		if parked := of[stats.InstanceParked](f); len(parked) != 1 || parked[0].Failures != 1 {
			t.Errorf("parked: %+v, want once, for the one failure that was enough", parked)
		}
	})
}

func TestStartThatHangsGivesItsTurnUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, err := New(WithStarts(Starts{Limit: 1, Turn: 15 * time.Second}))
		if err != nil {
			t.Fatal(err)
		}
		hung, err := r.gateOf("a")(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		release, err := r.gateOf("a")(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if d := time.Since(began); d != 15*time.Second {
			t.Errorf("the next start waited %v, want 15s", d)
		}
		hung() // late, and must not give a second place away
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := r.gateOf("b")(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a third start: %v, want to wait", err)
		}
		release()
	})
}
