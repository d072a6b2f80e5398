package instance_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/instance/osquerydtest"
	"github.com/osqvisor/osqvisor/stats"
)

// A start that is cancelled leaves nothing, wherever it was.
func TestPromise05CancelledStartLeavesNothing(t *testing.T) {
	t.Parallel()
	for _, phase := range []osquerydtest.Phase{
		osquerydtest.PhaseStart, osquerydtest.PhaseBeforePidfile, osquerydtest.PhaseAfterPidfile, osquerydtest.PhaseBeforeDatabase,
		osquerydtest.PhaseAfterDatabase, osquerydtest.PhaseBeforeSocket, osquerydtest.PhaseAfterSocket, osquerydtest.PhaseRequire,
		osquerydtest.PhaseConfig, osquerydtest.PhaseLogger, osquerydtest.PhaseReady,
	} {
		t.Run(string(phase), func(t *testing.T) {
			t.Parallel()
			fake := osquerydtest.Start(t, osquerydtest.WithScript(fast.WithRule(osquerydtest.Rule{
				Phase: phase, Action: osquerydtest.Action{Do: osquerydtest.Delay, Delay: 300 * time.Millisecond},
			})))
			in := newInstance(t, fake.Path(), instance.WithTimeouts(instance.Timeouts{Stop: 10 * time.Second}))
			ctx, cancel := context.WithCancel(patient(t))
			defer cancel()
			done := make(chan error, 1)
			go func() { done <- in.Run(ctx) }()
			if _, err := fake.WaitProcess(patient(t), func(p *osquerydtest.Process) bool { return p.Reached(phase) }); err != nil {
				t.Fatal(err)
			}
			cancel()
			if err := <-done; err != nil {
				t.Errorf("a cancelled start gave %v", err)
			}
			nothingLeft(t, in)
			if c := in.Snapshot().History[0].Cause; c != stats.CauseRequested {
				t.Errorf("cause %q", c)
			}
		})
	}
	for i := range 8 {
		t.Run(fmt.Sprint("random ", i), func(t *testing.T) {
			t.Parallel()
			fake := osquerydtest.Start(t, osquerydtest.WithScript(fast))
			in := newInstance(t, fake.Path())
			for range 4 {
				after := time.Duration(rand.Int64N(int64(400 * time.Millisecond)))
				ctx, cancel := context.WithTimeout(context.Background(), after)
				if err := in.Run(ctx); err != nil {
					t.Errorf("a cancelled start gave %v", err)
				}
				cancel()
				nothingLeft(t, in)
			}
		})
	}
	t.Run("before", func(t *testing.T) {
		in := newInstance(t, osquerydtest.Start(t).Path())
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if err := in.Run(ctx); err != nil {
			t.Errorf("a run under an ended context gave %v", err)
		}
		nothingLeft(t, in)
	})
}
