package instance_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/instance/osquerydtest"
	"github.com/osqvisor/osqvisor/stats"
)

// A sleep that makes a failed check void leaves no instance unhealthy.
func TestHealthRecoversAfterASleep(t *testing.T) {
	t.Parallel()
	var calls atomic.Int32
	r := start(t, osquerydtest.Start(t, osquerydtest.WithScript(fast)).Path(),
		instance.WithHealth(instance.Health{
			Interval: 300 * time.Millisecond,
			Timeout:  5 * time.Second,
			Failures: 3,
			Check: func(context.Context, *instance.Instance) error {
				if calls.Add(1) == 1 {
					return errors.New("once")
				}
				return nil
			},
		}))
	next[stats.HealthFailed](t, r.events)
	r.SetAsleep(true)
	r.SetAsleep(false)
	next[stats.HealthRecovered](t, r.events)
	if s := r.Snapshot().State; s != stats.StateReady {
		t.Errorf("it is %s", s)
	}
}

// A run that is stopped while it waits for its turn has begun, for those who count.
func TestRunThatNeverGotItsTurn(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(patient(t))
	seen := newEvents()
	in := newInstance(t, osquerydtest.Start(t).Path(), instance.WithObserver(seen),
		instance.WithGate(func(ctx context.Context) (func(), error) {
			cancel()
			<-ctx.Done()
			return nil, ctx.Err()
		}))
	if err := in.Run(ctx); err != nil {
		t.Fatal(err)
	}
	next[stats.RunStarting](t, seen)
	next[stats.RunEnded](t, seen)
	if n := in.Snapshot().Totals.Runs; n != 1 {
		t.Errorf("%d runs", n)
	}
}

// Close waits for observers no longer than its context allows.
func TestCloseIsBoundedByItsContext(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	defer close(release)
	in := newInstance(t, osquerydtest.Start(t).Path(), instance.WithTimeouts(instance.Timeouts{Observers: time.Hour}),
		instance.WithObserver(stats.ObserverFunc(func(context.Context, stats.Event) { <-release })))
	in.Record(t.Context(), stats.InstanceAdded{})
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := in.Close(ctx); err == nil {
		t.Error("closed, although an observer runs")
	}
}
