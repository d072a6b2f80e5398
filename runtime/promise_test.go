package runtime_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/osquery/osquery-go/plugin/table"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/instance/osquerydtest"
	"github.com/osqvisor/osqvisor/internal/testhelp"
	"github.com/osqvisor/osqvisor/runtime"
	"github.com/osqvisor/osqvisor/stats"
)

// Whatever one instance does, its observer included, the others are not touched by it.
func TestPromise03Isolation(t *testing.T) {
	testhelp.CheckLeaks(t)
	d := fakeWith(t,
		osquerydtest.Rule{Instance: "/fails/", Phase: osquerydtest.PhaseStart, Action: osquerydtest.Action{Do: osquerydtest.Exit, Code: 1}},
		osquerydtest.Rule{
			Instance: "/hangs/", Phase: osquerydtest.PhaseBeforeSocket, Action: osquerydtest.Action{Do: osquerydtest.NoSocket},
		},
		osquerydtest.Rule{Instance: "/deaf/", Phase: osquerydtest.PhaseReady, Action: osquerydtest.Action{Do: osquerydtest.Hang}},
	)
	slow := extension.Funcs{ // a transport that hangs for ever
		ConfigFunc: func(ctx context.Context, _ extension.Node) (map[string]string, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		},
	}
	release := make(chan struct{})
	blocked := stats.ObserverFunc(func(_ context.Context, e stats.Event) {
		if _, ok := e.(stats.RunReady); ok {
			<-release
		}
	})
	h := newHost(t, d, runtime.WithStarts(runtime.Starts{Limit: 2, Turn: time.Second}),
		runtime.WithRestart(runtime.RestartPolicy{Initial: 50 * time.Millisecond, Max: 100 * time.Millisecond, Budget: -1}),
		runtime.WithInstanceDefaults(instance.WithTimeouts(instance.Timeouts{Stop: 5 * time.Second})),
		runtime.WithInstance("hangs"),
		runtime.WithInstance("slow", instance.WithTransport(slow)),
		runtime.WithInstance("deaf", instance.WithHealth(instance.Health{
			Interval: 100 * time.Millisecond, Timeout: 200 * time.Millisecond, Failures: 2,
		})),
		runtime.WithInstance("fails"),
		runtime.WithInstance("blocked", instance.WithObserver(blocked),
			instance.WithTimeouts(instance.Timeouts{Observers: 100 * time.Millisecond})),
		runtime.WithInstance("good-a"), runtime.WithInstance("good-b"))
	h.run(t)
	defer close(release)                            // before Run is joined
	good := []string{"good-a", "good-b", "blocked"} // an observer does not hold up its own instance
	h.ready(t, good...)
	pids := []int{h.pid(t, "good-a"), h.pid(t, "good-b"), h.pid(t, "blocked")}
	testhelp.WaitEvents[stats.RestartScheduled](t, h.events, "fails", 3)
	testhelp.WaitEvents[stats.HealthFailed](t, h.events, "deaf", 1)
	testhelp.WaitEvents[stats.ProcessStarted](t, h.events, "hangs", 1)
	h.answers(t, good...)
	for i, id := range good {
		if pid := h.pid(t, id); pid != pids[i] {
			t.Errorf("%s was restarted: pid %d, was %d", id, pid, pids[i])
		}
	}
	if err := h.Add("late"); err != nil {
		t.Fatal(err)
	}
	h.ready(t, "late")
	for _, id := range []string{"fails", "hangs", "late", "blocked"} {
		if err := h.Remove(testhelp.Context(t), id); err != nil {
			t.Error(err)
		}
	}
	h.answers(t, "good-a", "good-b")
}

func TestPromise03OneDiesTheOthersGoOn(t *testing.T) {
	each(t, func(t *testing.T, d osqueryd) {
		h := newHost(t, d, runtime.WithInstance("victim"), runtime.WithInstance("a"), runtime.WithInstance("b"))
		h.run(t)
		h.ready(t, h.IDs()...)
		a, b, victim := h.pid(t, "a"), h.pid(t, "b"), h.pid(t, "victim")
		kill(t, victim)
		ready := testhelp.WaitEvents[stats.RunReady](t, h.events, "victim", 2)
		t.Logf("recovered in %v", ready[1].Elapsed)
		if h.pid(t, "a") != a || h.pid(t, "b") != b {
			t.Error("others were restarted")
		}
		h.answers(t, "a", "b", "victim")
		s, err := h.Snapshot("victim")
		if err != nil || s.Totals.Restarts != 1 || s.History[0].Cause != stats.CauseSignal {
			t.Errorf("snapshot %+v, %v; want one restart, because of a signal", s, err)
		}
	})
}

func TestPromise04DynamicSet(t *testing.T) {
	each(t, func(t *testing.T, d osqueryd) {
		h := newHost(t, d)
		ctx := testhelp.Context(t)
		if !h.Healthy().Healthy {
			t.Error("an empty set is not healthy")
		}
		for _, id := range []string{"before", "never"} {
			if err := h.Add(id); err != nil {
				t.Fatal(err)
			}
		}
		_, updated := h.Update(ctx, "before", instance.WithLabels(map[string]string{"a": "b"}))
		if err := errors.Join(updated, h.Restart(ctx, "before"), h.Remove(ctx, "never")); err != nil {
			t.Errorf("before Run: %v", err)
		}
		h.run(t)
		if err := h.Add("during"); err != nil {
			t.Fatal(err)
		}
		h.ready(t, "before", "during")
		if err := h.Healthy().Err(); err != nil {
			t.Error(err)
		}
		for name, change := range map[string]func() error{
			"Restart": func() error { return h.Restart(ctx, "before") },
			"Update": func() error {
				_, err := h.Update(ctx, "before", instance.WithEnv("UPDATED=1"))
				return err
			},
		} {
			pid, other := h.pid(t, "before"), h.pid(t, "during")
			if err := change(); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if testhelp.Alive(pid) {
				t.Errorf("%s returned while the old osqueryd was alive", name)
			}
			h.ready(t, "before")
			if h.pid(t, "before") == pid || h.pid(t, "during") != other {
				t.Errorf("%s changed the wrong process", name)
			}
		}
		h.answers(t, "before", "during")
		pid := h.pid(t, "during")
		if err := h.Remove(ctx, "during"); err != nil || testhelp.Alive(pid) {
			t.Errorf("Remove: %v; alive %v", err, testhelp.Alive(pid))
		}
		if err := h.Remove(ctx, "during"); !errors.Is(err, runtime.ErrNotFound) {
			t.Errorf("a second Remove: %v, want ErrNotFound", err)
		}
		if err := h.Add("during"); err != nil { // the directory is free again
			t.Fatal(err)
		}
		h.ready(t, "during")
		if s, _ := h.Snapshot("before"); s.Totals.Runs != 3 {
			t.Errorf("%d runs are counted, want 3: counters go on through Update", s.Totals.Runs)
		}
	})
}

func TestPromise09PanicsAreContained(t *testing.T) {
	each(t, func(t *testing.T, d osqueryd) {
		transport := extension.Funcs{
			ConfigFunc: func(context.Context, extension.Node) (map[string]string, error) {
				return map[string]string{"a": `{"schedule":{"t":{"query":"select 1","interval":1}}}`}, nil
			},
			LogsFunc:    func(context.Context, extension.Node, extension.Batch) error { panic("logs") },
			QueriesFunc: func(context.Context, extension.Node) (extension.QuerySet, error) { panic("queries") },
		}
		bad := table.NewPlugin("bad", []table.ColumnDefinition{table.TextColumn("x")},
			func(context.Context, table.QueryContext) ([]map[string]string, error) { panic("table") })
		policy := func(context.Context, extension.Node, map[string]string) (map[string]string, error) { panic("policy") }
		var checks atomic.Int32
		checker := func(context.Context, *instance.Instance) error {
			if checks.Add(1) == 1 {
				panic("checker")
			}
			return nil
		}
		h := newHost(t, d, runtime.WithTransport(transport),
			runtime.WithObserver(stats.ObserverFunc(func(context.Context, stats.Event) { panic("observer") })),
			runtime.WithInstanceDefaults(instance.WithDistributed(extension.Distributed{Interval: time.Second})),
			runtime.WithInstance("plain", instance.WithTables(bad)),
			runtime.WithInstance("policy", instance.WithConfig(extension.Config{Policy: policy})),
			runtime.WithInstance("checker",
				instance.WithHealth(instance.Health{Interval: 100 * time.Millisecond, Check: checker})),
			runtime.WithInstance("config", instance.WithTransport(extension.Funcs{
				ConfigFunc: func(context.Context, extension.Node) (map[string]string, error) { panic("config") },
			})))
		h.run(t)
		h.ready(t, h.IDs()...)
		if _, err := h.Query(testhelp.Context(t), "plain", "select * from bad"); err == nil {
			t.Error("a query of a table that panics succeeded")
		}
		waitPanic(t, h, "plain", "table")
		waitPanic(t, h, "plain", "queries")
		waitPanic(t, h, "plain", "observer")
		waitPanic(t, h, "policy", "policy")
		waitPanic(t, h, "checker", "checker")
		waitPanic(t, h, "config", "config")
		h.answers(t, h.IDs()...)
	})
}

// waitPanic waits for the announcement of a panic with that value.
func waitPanic(t *testing.T, h *host, id, value string) {
	t.Helper()
	for n := 1; ; n++ {
		if all := testhelp.WaitEvents[stats.PanicCaught](t, h.events, id, n); all[n-1].Value == value {
			return
		}
	}
}

func TestPromise10CancelledQueryReturnsAtOnce(t *testing.T) {
	each(t, func(t *testing.T, d osqueryd) {
		called, release := make(chan struct{}, 10), make(chan struct{})
		slow := table.NewPlugin("slow", []table.ColumnDefinition{table.TextColumn("x")},
			func(context.Context, table.QueryContext) ([]map[string]string, error) {
				called <- struct{}{}
				<-release
				return []map[string]string{{"x": "late"}}, nil
			})
		h := newHost(t, d, runtime.WithInstance("vendor", instance.WithTables(slow)))
		h.run(t)
		h.ready(t, "vendor")
		ctx, cancel := context.WithCancel(testhelp.Context(t))
		result := make(chan error, 1)
		go func() {
			_, err := h.Query(ctx, "vendor", "select * from slow")
			result <- err
		}()
		<-called
		cancelled := time.Now()
		cancel()
		err := <-result
		if took := time.Since(cancelled); took > 100*time.Millisecond {
			t.Errorf("a cancelled query returned after %v, want at most 100ms", took)
		}
		if !errors.Is(err, context.Canceled) {
			t.Errorf("a cancelled query gave %v, want context.Canceled", err)
		}
		close(release)
		for range 20 {
			rows, err := h.Query(testhelp.Context(t), "vendor", "select 'mine' as x")
			if err != nil || rows.Len() != 1 || rows.Row(0).Get("x") != "mine" {
				t.Fatalf("after a cancelled query another gave %v, %v", rows, err)
			}
		}
	})
}
