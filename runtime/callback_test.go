package runtime_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/osqvisor/osqvisor/instance/osquerydtest"
	"github.com/osqvisor/osqvisor/internal/testhelp"
	"github.com/osqvisor/osqvisor/runtime"
	"github.com/osqvisor/osqvisor/stats"
)

// An observer may call whatever does not wait for its own instance.
func TestMethodsFromAnObserver(t *testing.T) {
	testhelp.CheckLeaks(t)
	d := fakeWith(t, osquerydtest.Rule{
		Instance: "/vendor/", Runs: 1, Phase: osquerydtest.PhaseStart, Action: osquerydtest.Action{Do: osquerydtest.Exit, Code: 1},
	})
	var h *host
	var problems atomic.Value
	var once sync.Once
	did := make(chan struct{})
	observer := stats.ObserverFunc(func(ctx context.Context, e stats.Event) {
		if _, ok := e.(stats.InstanceParked); !ok {
			return
		}
		once.Do(func() {
			defer close(did)
			healthy := h.Healthy().Healthy
			err := h.Resume("vendor") // it goes on at once, while this goes on
			if err == nil {
				err = h.Add("other")
			}
			if err == nil {
				err = h.WaitReady(ctx, "other")
			}
			if err == nil {
				err = h.Remove(ctx, "other")
			}
			if n := len(h.Snapshots()); err == nil && (n != 1 || healthy) {
				err = fmt.Errorf("%d snapshots, healthy %v", n, healthy)
			}
			if err != nil {
				problems.Store(err)
			}
		})
	})
	h = newHost(t, d, runtime.WithObserver(observer), runtime.WithInstance("vendor"),
		runtime.WithRestart(runtime.RestartPolicy{Budget: 1}))
	h.run(t)
	testhelp.WaitEvents[stats.InstanceResumed](t, h.events, "vendor", 1)
	h.ready(t, "vendor")
	<-did
	if err := problems.Load(); err != nil {
		t.Error(err)
	}
}

func TestRateAlarmReachesObservers(t *testing.T) {
	d := fakeWith(t, osquerydtest.Rule{Phase: osquerydtest.PhaseStart, Action: osquerydtest.Action{Do: osquerydtest.Exit, Code: 1}})
	h := newHost(t, d, runtime.WithInstance("vendor"), runtime.WithRateAlarm(2, time.Hour),
		runtime.WithRestart(runtime.RestartPolicy{Initial: time.Millisecond, Max: time.Millisecond, Budget: -1}))
	h.run(t)
	alarms := testhelp.WaitEvents[stats.RateAlarm](t, h.events, "vendor", 1)
	if a := alarms[0]; a.What != runtime.AlarmRestarts || a.Count != 3 || a.Window != time.Hour {
		t.Errorf("alarm %+v, want one of 3 restarts within an hour", a)
	}
	testhelp.WaitEvents[stats.RestartScheduled](t, h.events, "vendor", 6)
	if n := len(testhelp.EventsOf[stats.RateAlarm](h.events, "vendor")); n != 1 {
		t.Errorf("%d alarms within the window, want 1", n)
	}
}
