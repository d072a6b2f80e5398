package runtime_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/internal/testhelp"
	"github.com/osqvisor/osqvisor/runtime"
	"github.com/osqvisor/osqvisor/stats"
)

// TestStartStopStress does everything at the same time, again and again; nothing
// may be left after any round. A real osqueryd takes a second to start, so it gets
// fewer rounds.
func TestStartStopStress(t *testing.T) {
	each(t, func(t *testing.T, d osqueryd) {
		rounds, callers := 10, 50
		if d.fake == nil {
			rounds, callers = 2, 20
		}
		h := newHost(t, d, runtime.WithInstanceDefaults(instance.WithTimeouts(instance.Timeouts{Stop: 20 * time.Second})))
		for round := range rounds {
			left := testhelp.LeakCheck()
			stress(t, h, uint64(round), callers)
			if err := left(); err != nil {
				t.Fatalf("after round %d: %v", round, err)
			}
		}
		ready := len(testhelp.EventsOf[stats.RunReady](h.events, ""))
		runs := len(testhelp.EventsOf[stats.RunEnded](h.events, ""))
		t.Logf("%d runs, of which %d became ready", runs, ready)
		if runs < 5*rounds || ready < rounds {
			t.Error("too little was started for the test to mean anything")
		}
		if n := len(testhelp.EventsOf[stats.InstanceParked](h.events, "")); n > 0 {
			t.Errorf("%d instances were parked", n)
		}
	})
}

// stress runs the set once, with that many callers at the same time; some of them
// come before Run has begun.
func stress(t *testing.T, h *host, seed uint64, callers int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(testhelp.Context(t), 30*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	call := func(first, last int) {
		for i := first; i < last; i++ {
			random := rand.New(rand.NewPCG(seed, uint64(i))) // to be repeated
			wg.Go(func() {
				for range 3 {
					stressOne(ctx, t, h, random)
				}
			})
		}
	}
	call(0, callers/4)
	h.run(t)
	call(callers/4, callers)
	wg.Wait()
	h.stop()
	for _, id := range h.IDs() {
		if err := h.Remove(testhelp.Context(t), id); err != nil {
			t.Error(err)
		}
	}
}

// stressOne does one thing to one instance, and accepts what the others at the same
// time may make of it.
func stressOne(ctx context.Context, t *testing.T, h *host, random *rand.Rand) {
	t.Helper()
	id := []string{"a", "b", "c", "d", "e"}[random.IntN(5)]
	var err error
	switch random.IntN(10) {
	case 0, 1, 2, 3:
		err = h.Add(id)
	case 4:
		err = h.Restart(ctx, id)
	case 5:
		err = h.Remove(ctx, id)
	case 6:
		_, err = h.Update(ctx, id, instance.WithEnv("R="+strconv.Itoa(random.IntN(3))))
	default:
		if err = h.WaitReady(ctx, id); err == nil {
			_, err = h.Query(ctx, id, "select 1")
		}
	}
	for _, expected := range []error{
		runtime.ErrExists, runtime.ErrNotFound, instance.ErrNotRunning, instance.ErrConnectionLost,
	} {
		if errors.Is(err, expected) {
			return
		}
	}
	if err != nil {
		t.Errorf("%s: %v", id, err)
	}
}
