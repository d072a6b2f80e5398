package runtime

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/stats"
)

// One that was healthy waits for none of those that cannot start, however many they are.
func TestTrial21HealthyOnesGoFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, f := newFakeRunner(t, nil, WithStarts(Starts{Limit: 4}), WithRestart(RestartPolicy{Jitter: -1, Budget: -1, Max: time.Second}))
		ready := make(chan time.Time, 10)
		f.liveAs = func(ctx context.Context, id string) error {
			release, err := r.gateOf(id)(ctx)
			if err != nil {
				return nil
			}
			defer release()
			if id != "healthy" { // it hangs until its start times out
				wait(ctx, time.Minute)
				return &instance.ExitError{Phase: stats.PhaseConnect, Cause: stats.CauseStartTimeout}
			}
			release()
			ready <- time.Now()
			wait(ctx, 10*time.Minute)
			return &instance.ExitError{Phase: stats.PhaseServe, Cause: stats.CauseExit, Uptime: 10 * time.Minute}
		}
		if err := r.Add("healthy"); err != nil {
			t.Fatal(err)
		}
		stop := running(t, r)
		<-ready
		for i := range 16 {
			if err := r.Add(fmt.Sprint("sick-", i)); err != nil {
				t.Fatal(err)
			}
		}
		for range 5 {
			next := time.Now().Add(10 * time.Minute)
			if late := (<-ready).Sub(next); late > time.Second {
				t.Errorf("the healthy instance was held up for %v", late)
			}
		}
		stop()
	})
}

// wait ends after d, or with ctx.
func wait(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

func TestTrial21OrderOfStarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStarts(2)
		held := map[string]*start{}
		enter := func(name string) {
			go func() {
				if st, err := s.acquire(t.Context(), strings.HasPrefix(name, "sick")); err == nil {
					held[name] = st // one at a time: synctest.Wait is between them
				}
			}()
			synctest.Wait()
		}
		next := func(over, want string) {
			t.Helper()
			s.release(held[over])
			synctest.Wait()
			if held[want] == nil {
				t.Errorf("after %s it is not %s's turn; those that had one are %v", over, want, slices.Sorted(maps.Keys(held)))
			}
		}
		for _, name := range []string{"sick 1", "sick 2", "healthy 1", "sick 3", "healthy 2", "healthy 3"} {
			enter(name)
		}
		if len(held) != 2 || held["sick 1"] == nil || held["healthy 1"] == nil { // the sick have half of the places
			t.Fatalf("at first %v start", slices.Sorted(maps.Keys(held)))
		}
		next("healthy 1", "healthy 2")
		next("sick 1", "healthy 3")
		next("healthy 2", "sick 2")
		s.release(held["healthy 3"])
		synctest.Wait()
		if held["sick 3"] != nil {
			t.Error("the sick have all places")
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := s.acquire(ctx, true); err == nil || len(s.waiting) != 1 {
			t.Errorf("who gave up: %v, and %d wait, want one", err, len(s.waiting))
		}
		next("sick 2", "sick 3")
	})
}
