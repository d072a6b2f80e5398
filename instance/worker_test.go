package instance_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/instance/osquerydtest"
	"github.com/osqvisor/osqvisor/stats"
)

// wantReplaced says that the worker was replaced in the same run, and that no check of
// health is said to have failed for it.
func wantReplaced(t *testing.T, r *running, run string) {
	t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		select {
		case e := <-r.events.ch:
			switch e := e.(type) {
			case stats.HealthFailed:
				t.Errorf("a worker that went away is told as a failed check: %v", e.Err)
			case stats.RunEnded:
				t.Fatalf("the run ended: %v", e.Err)
			case stats.WorkerReplaced:
				if err := r.WaitReady(patient(t)); err != nil || r.RunID() != run {
					t.Errorf("run %q became %q, %v", run, r.RunID(), err)
				}
				return
			}
		case <-timer.C:
			t.Fatal("the worker was not replaced")
		}
	}
}

// A worker that dies while a check asks it is replaced: the check tells nothing then.
func TestWorkerLostInACheck(t *testing.T) {
	t.Parallel()
	fake := osquerydtest.Start(t, osquerydtest.WithScript(fast.WithRule(osquerydtest.Rule{
		Phase: osquerydtest.PhaseCall, Match: "osquery_registry", Worker: 1, Action: osquerydtest.Action{Do: osquerydtest.Kill},
	})))
	r := startUnready(t, fake.Path(), instance.WithHealth(instance.Health{Interval: 24 * time.Hour, Failures: 1, Delay: -1}))
	wantReplaced(t, r, next[stats.RunReady](t, r.events).Head.Run)
}

// The host's checker, which may wait for the very worker that died, does not hold up its
// replacement.
func TestWorkerLostInTheHostsCheck(t *testing.T) {
	t.Parallel()
	inside := make(chan struct{})
	var calls atomic.Int64
	checker := func(ctx context.Context, _ *instance.Instance) error {
		if calls.Add(1) > 1 {
			return nil
		}
		close(inside)
		<-ctx.Done()
		return ctx.Err()
	}
	r := start(t, osquerydtest.Start(t, osquerydtest.WithScript(fast)).Path(),
		instance.WithHealth(instance.Health{Interval: 24 * time.Hour, Timeout: time.Hour, Failures: 1, Delay: -1, Check: checker}))
	run := r.RunID()
	pid := workerPID(t, r)
	<-inside
	kill(t, pid)
	wantReplaced(t, r, run)
}

// Neither does it hold up the end of the run.
func TestOsquerydLostInTheHostsCheck(t *testing.T) {
	t.Parallel()
	inside := make(chan struct{})
	r := start(t, osquerydtest.Start(t, osquerydtest.WithScript(fast)).Path(),
		instance.WithHealth(instance.Health{
			Interval: 24 * time.Hour,
			Timeout:  time.Hour,
			Failures: 1,
			Delay:    -1,
			Check: func(ctx context.Context, _ *instance.Instance) error {
				close(inside)
				<-ctx.Done()
				return ctx.Err()
			},
		}))
	<-inside
	kill(t, r.PID())
	_ = wantExit(t, r.wait(t), stats.PhaseServe, stats.CauseSignal)
}

// A call that broke the connection is not paid for by the next one.
func TestBrokenConnectionIsMadeAgain(t *testing.T) {
	t.Parallel()
	fake := osquerydtest.Start(t, osquerydtest.WithScript(fast.WithRule(osquerydtest.Rule{
		Phase: osquerydtest.PhaseCall, Match: "config update", Times: 1, Action: osquerydtest.Action{Do: osquerydtest.Reset},
	})))
	server := extension.NewMemory()
	r := start(t, fake.Path(), instance.WithHealth(instance.Health{
		Interval: 24 * time.Hour, Timeout: time.Second, Failures: 1,
	}), instance.WithTransport(server))
	next[stats.ConfigServed](t, r.events)
	server.SetConfig("vendor", map[string]string{"main": `{"options": {"verbose": true}}`})
	if err := r.PushConfig(patient(t)); err == nil {
		t.Error("the connection was not broken")
	}
	if err := r.SetTables(patient(t), hostTable("late", "here")); err != nil {
		t.Fatal(err)
	}
	if v := value(t, r, "select value from late"); v != "here" {
		t.Errorf("late is %q", v)
	}
}

// Tables that could not be exchanged when the run became ready are exchanged by the next check.
func TestTablesAreExchangedLater(t *testing.T) {
	t.Parallel()
	script := fast
	for _, do := range []osquerydtest.Action{{Do: osquerydtest.Delay, Delay: time.Second}, {Do: osquerydtest.Reset}} {
		script = script.WithRule(osquerydtest.Rule{Phase: osquerydtest.PhaseCall, Match: "osquery_info", Times: 1, Action: do})
	}
	r := startUnready(t, osquerydtest.Start(t, osquerydtest.WithScript(script)).Path(),
		instance.WithTables(hostTable("one", "1")), instance.WithHealth(instance.Health{Interval: 20 * time.Millisecond}))
	next[stats.ExtensionRegistered](t, r.events)
	if err := r.SetTables(patient(t), hostTable("two", "2")); err != nil {
		t.Fatal(err)
	}
	if err := r.WaitReady(patient(t)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the new table is there", func() bool {
		rows, err := r.Query(patient(t), "select value from two")
		return err == nil && rows.Len() == 1
	})
}
