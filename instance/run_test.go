package instance_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/stats"
)

func TestRunQueryStop(t *testing.T) {
	each(t, func(t *testing.T, binary string) {
		r := start(t, binary)
		rows, err := r.Query(patient(t), "select name from osquery_registry where registry = 'logger' and name = 'osqvisor'")
		if err != nil {
			t.Fatal(err)
		}
		if rows.Len() != 1 {
			t.Fatalf("osqueryd lists our logger %d times, want once", rows.Len())
		}
		r.stop()
		if err := r.wait(t); err != nil {
			t.Fatalf("a requested stop gave %v, want nil", err)
		}
		s := r.Snapshot()
		if s.State != stats.StateStopped || len(s.History) != 1 || s.History[0].Cause != stats.CauseRequested {
			t.Fatalf("snapshot after stop: %+v", s)
		}
		if s.History[0].InstanceID == "" || s.History[0].Version == "" {
			t.Errorf("the run tells no osquery instance id or version: %+v", s.History[0])
		}
	})
}

func TestKilledOsquerydIsTold(t *testing.T) {
	each(t, func(t *testing.T, binary string) {
		r := start(t, binary)
		kill(t, r.PID())
		var exit *instance.ExitError
		if err := r.wait(t); !errors.As(err, &exit) {
			t.Fatalf("run returned %v, want an *ExitError", err)
		}
		if exit.Cause != stats.CauseSignal || exit.Phase != stats.PhaseServe {
			t.Errorf("cause %q in phase %q, want %q in %q", exit.Cause, exit.Phase, stats.CauseSignal, stats.PhaseServe)
		}
	})
}

func TestWorkerReplacedInPlace(t *testing.T) {
	each(t, func(t *testing.T, binary string) {
		r := start(t, binary)
		rows, err := r.Query(patient(t), "select pid, watcher from osquery_info")
		if err != nil {
			t.Fatal(err)
		}
		kill(t, atoi(t, rows.Row(0).Get("pid")))
		e := next[stats.WorkerReplaced](t, r.events)
		t.Logf("replaced in %v", e.Elapsed)
		ctx, cancel := context.WithTimeout(patient(t), 30*time.Second)
		defer cancel()
		if _, err := r.Query(ctx, "select 1"); err != nil {
			t.Fatal(err)
		}
		if len(r.Snapshot().History) != 0 {
			t.Error("the run ended although the watcher replaced its worker")
		}
	})
}
