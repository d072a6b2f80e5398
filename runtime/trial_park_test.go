package runtime

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/osqvisor/osqvisor/internal/control"
	"github.com/osqvisor/osqvisor/stats"
)

// broken fails for a cause until it is mended.
func broken(cause stats.Cause, mended <-chan struct{}) life {
	return func(ctx context.Context, n int) error {
		select {
		case <-mended:
			return lasting(ctx, n)
		default:
			return failing(cause)(ctx, n)
		}
	}
}

func everyCause() []stats.Cause {
	return []stats.Cause{
		stats.CauseExit, stats.CauseSignal, stats.CauseStartTimeout, stats.CauseUnhealthy, stats.CauseOutOfMemory,
		stats.CauseDatabaseLocked, stats.CauseDatabaseCorrupt, stats.CausePidfileBusy, stats.CausePluginMissing,
		stats.CauseLoggerFailed, stats.CauseFlagRefused, stats.CauseBinaryMissing, stats.CauseBinaryUnusable,
		stats.CauseBinaryBusy, stats.CauseResources, stats.CauseDirectory, stats.CauseNoSocket, stats.CauseCrashLoop, stats.CauseLeftover,
		stats.CausePanic, stats.CauseUnknown,
	}
}

// Whatever kept an instance down for an hour, it is up again within the longest wait.
func TestPromise14NothingIsGivenUpForGood(t *testing.T) {
	for _, c := range everyCause() {
		t.Run(string(c), func(t *testing.T) {
			mended := make(chan struct{})
			bubble(t, broken(c, mended), func(t *testing.T, _ *Runner, f *fakes) {
				after(time.Hour)
				close(mended)
				after(18 * time.Minute) // 15 and a fifth
				if !f.made[0].isLive() {
					t.Errorf("it is still down: %s", f.made[0].Snapshot().State)
				}
			})
		})
	}
}

func TestTrial13ParkedIsTriedAgain(t *testing.T) {
	policy := WithRestart(RestartPolicy{Jitter: -1, ParkFor: 20 * time.Minute})
	bubble(t, failing(stats.CauseFlagRefused), func(t *testing.T, _ *Runner, f *fakes) {
		next := f.made[0].Snapshot().NextStart
		if want := time.Now().Add(20 * time.Minute); !next.Equal(want) {
			t.Errorf("the snapshot of a parked instance has its next start at %v, want %v", next, want)
		}
		after(time.Hour)
		for _, gap := range gaps(f.started()) {
			if gap != 20*time.Minute {
				t.Errorf("a parked instance was tried again after %v, want 20m", gap)
			}
		}
		wantRuns(t, f, 4)
		for _, e := range of[stats.InstanceResumed](f) {
			if e.Reason != stats.ResumedByTime {
				t.Errorf("resumed because of %q, want %q", e.Reason, stats.ResumedByTime)
			}
		}
		for _, e := range of[stats.InstanceParked](f) {
			if e.For != 20*time.Minute {
				t.Errorf("parked for %v, want 20m", e.For)
			}
		}
	}, policy)
}

func TestTrial13ForEverIsWhatAHostAsksFor(t *testing.T) {
	policy := WithRestart(RestartPolicy{ParkFor: -1})
	bubble(t, failing(stats.CauseBinaryMissing), func(t *testing.T, r *Runner, f *fakes) {
		f.setGround(control.Conditions{Binary: "another"})
		after(365 * 24 * time.Hour)
		wantRuns(t, f, 1)
		if p := of[stats.InstanceParked](f); len(p) != 1 || p[0].For != 0 {
			t.Errorf("parked: %+v, want once, for ever", p)
		}
		if err := r.Resume("vendor"); err != nil {
			t.Error(err)
		}
		after(0)
		if e := of[stats.InstanceResumed](f); len(e) != 1 || e[0].Reason != stats.ResumedByHost {
			t.Errorf("resumed: %+v, want once, by the host", e)
		}
	}, policy)
}

func TestTrial13ChangedBinaryIsTriedAtOnce(t *testing.T) {
	for _, c := range []stats.Cause{stats.CauseBinaryMissing, stats.CauseBinaryUnusable, stats.CauseFlagRefused, stats.CauseCrashLoop} {
		t.Run(string(c), func(t *testing.T) {
			mended := make(chan struct{})
			bubble(t, broken(c, mended), func(t *testing.T, _ *Runner, f *fakes) {
				after(10 * time.Second)
				for _, half := range []string{"a tenth", "a fifth", "a half", "nearly all"} { // it is being copied
					f.setGround(control.Conditions{Binary: half})
					after(time.Second)
				}
				wantRuns(t, f, 1)
				close(mended)
				f.setGround(control.Conditions{Binary: "all of it"})
				after(2 * time.Second)
				wantRuns(t, f, 2)
			})
		})
	}
}

// What came back while the failed run was still ending is noticed too.
func TestTrial13BinaryThatCameBackMeanwhile(t *testing.T) {
	var f *fakes
	live := func(ctx context.Context, n int) error {
		if n > 1 {
			return lasting(ctx, n)
		}
		f.setGround(control.Conditions{Binary: "back"})
		return failing(stats.CauseBinaryMissing)(ctx, n)
	}
	synctest.Test(t, func(t *testing.T) {
		var r *Runner
		r, f = newFakeRunner(t, live)
		if err := r.Add("vendor"); err != nil {
			t.Fatal(err)
		}
		stop := running(t, r)
		after(2 * time.Second)
		wantRuns(t, f, 2)
		stop()
	})
}

func TestTrial13TenMinutesOfFullDisk(t *testing.T) {
	mended := make(chan struct{})
	bubble(t, broken(stats.CauseDirectory, mended), func(t *testing.T, _ *Runner, f *fakes) {
		f.setGround(control.Conditions{Free: 4096})
		after(10 * time.Minute)
		if n := len(of[stats.InstanceParked](f)); n > 0 {
			t.Error("a full disk parked the instance")
		}
		close(mended)
		runs := len(f.started())
		f.setGround(control.Conditions{Free: 1 << 30})
		after(time.Second)
		wantRuns(t, f, runs+1)
	}, WithRestart(RestartPolicy{Jitter: -1}))
}

// A disk with little more room than before is as full as it was.
func TestTrial13FullDiskIsNotTriedInALoop(t *testing.T) {
	bubble(t, failing(stats.CauseDirectory), func(t *testing.T, _ *Runner, f *fakes) {
		for i := range 24 * 60 { // a day, minute by minute
			f.setGround(control.Conditions{Free: int64(i%2) * littleRoom / 8})
			after(time.Minute)
		}
		if n := len(f.started()); n > 24*60/4+10 {
			t.Errorf("%d starts in a day on a disk that stayed full, want no more than the backoff allows", n)
		}
	})
}
