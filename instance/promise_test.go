package instance_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/osquery/osquery-go/plugin/table"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/instance/osquerydtest"
	"github.com/osqvisor/osqvisor/internal/thriftconn"
	"github.com/osqvisor/osqvisor/stats"
)

// hostTable is a table of one column and one row.
func hostTable(name, value string) extension.Table {
	return table.NewPlugin(name, []table.ColumnDefinition{table.TextColumn("value")},
		func(context.Context, table.QueryContext) ([]map[string]string, error) {
			if value == "panic" {
				panic("a table that panics")
			}
			return []map[string]string{{"value": value}}, nil
		})
}

// This test is serial: it counts what the whole process holds.
func TestPromise01NothingLeft(t *testing.T) {
	each(t, func(t *testing.T, binary string) {
		in := newInstance(t, binary, instance.WithTables(hostTable("host_facts", "x")), instance.WithTransport(extension.NewMemory()))
		once(t, in) // what is made once in a lifetime is made now
		before := levelNow()
		once(t, in)
		before.check(t)
		nothingLeft(t, in)
	})
	t.Run("failed", func(t *testing.T) {
		fake := osquerydtest.Start(t, osquerydtest.WithScript(fast.WithRule(osquerydtest.Rule{
			Phase: osquerydtest.PhaseConfig, Action: osquerydtest.Action{Do: osquerydtest.Exit, Code: 78},
		})))
		in := newInstance(t, fake.Path())
		before := levelNow()
		_ = in.Run(patient(t)) // whatever it says
		before.check(t)
		nothingLeft(t, in)
	})
	t.Run("killed", func(t *testing.T) {
		fake := osquerydtest.Start(t, osquerydtest.WithScript(fast.WithRule(osquerydtest.Rule{
			Phase: osquerydtest.PhaseStart, Action: osquerydtest.Action{Do: osquerydtest.IgnoreTerm},
		})))
		in := newInstance(t, fake.Path(), instance.WithTimeouts(instance.Timeouts{Stop: 2 * time.Second}))
		before := levelNow()
		once(t, in)
		before.check(t)
		nothingLeft(t, in)
	})
}

// Whether a stop was asked for is told by the context alone.
func TestPromise02AskedIsToldByTheContext(t *testing.T) {
	t.Parallel()
	rule := func(p osquerydtest.Phase, a osquerydtest.Action) string {
		return osquerydtest.Start(t, osquerydtest.WithScript(fast.WithRule(osquerydtest.Rule{Phase: p, Action: a}))).Path()
	}
	t.Run("an error that looks like it", func(t *testing.T) {
		in := newInstance(t, rule(osquerydtest.PhaseReady, osquerydtest.Action{Do: osquerydtest.Say, Text: "hi"}),
			instance.WithHealth(instance.Health{
				Interval: 10 * time.Millisecond, Timeout: time.Second, Failures: 1,
				Check: func(context.Context, *instance.Instance) error { return context.Canceled },
			}))
		e := wantExit(t, in.Run(patient(t)), stats.PhaseServe, stats.CauseUnhealthy)
		if !errors.Is(e, context.Canceled) {
			t.Errorf("the host's error is not in %v", e)
		}
	})
	for name, a := range map[string]osquerydtest.Action{
		"exit 78 at the stop": {Do: osquerydtest.Exit, Code: 78},
		"killed at the stop":  {Do: osquerydtest.Kill},
	} {
		t.Run(name, func(t *testing.T) {
			in := newInstance(t, rule(osquerydtest.PhaseStop, a))
			once(t, in)
			if c := in.Snapshot().History[0].Cause; c != stats.CauseRequested {
				t.Errorf("cause %q", c)
			}
		})
	}
}

// workerPID asks osqueryd for its worker.
func workerPID(t *testing.T, r *running) int {
	t.Helper()
	rows, err := r.Query(patient(t), "select pid from osquery_info")
	if err != nil {
		t.Fatal(err)
	}
	return atoi(t, rows.Row(0).Get("pid"))
}

func TestPromise06WorkersAreReplacedInPlace(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, binary string) {
		apart := 10 * time.Second
		if binary != realBinary() {
			apart = 0
		} else if testing.Short() {
			t.Skip("takes 30 s")
		}
		r := start(t, binary, instance.WithTables(hostTable("host_facts", "x")))
		run := r.RunID()
		for i := range 3 {
			<-time.After(apart) // a younger worker is respawned late, by osqueryd's own rule
			kill(t, workerPID(t, r))
			e := next[stats.WorkerReplaced](t, r.events)
			t.Logf("worker %d replaced in %v", i+1, e.Elapsed)
			rows, err := r.Query(patient(t), "select value from host_facts")
			if err != nil || rows.Len() != 1 {
				t.Fatalf("the host's table after worker %d: %v, %v", i+1, rows.Len(), err)
			}
		}
		if s := r.Snapshot(); r.RunID() != run || len(s.History) != 0 || s.Run.WorkersReplaced != 3 || s.State != stats.StateReady {
			t.Errorf("the run did not go on: %+v", s)
		}
	})
}

// osqueryd answers pings and has forgotten us: that is not healthy, and is mended in place.
func TestPromise07LostRegistrationIsMended(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, binary string) {
		started := make(chan struct{}) // osqueryd ends if it misses us before
		once := sync.OnceFunc(func() { close(started) })
		logger := func(what string) {
			if what == "logger" { // the last one that it asks for
				once()
			}
		}
		r := start(t, binary, instance.WithTables(hostTable("host_facts", "x")), instance.WithHealth(instance.Health{
			Interval: 20 * time.Millisecond,
		}),
			instance.WithDistributed(extension.Distributed{Interval: -1}), instance.WithActivated(logger))
		<-started
		run := r.RunID()
		for _, name := range []string{"osqvisor", "osqvisor_tables"} {
			c, err := thriftconn.Dial(patient(t), r.Socket())
			if err != nil {
				t.Fatal(err)
			}
			list, err := c.Extensions(patient(t))
			if err != nil {
				t.Fatal(err)
			}
			dropped := false
			for uuid, info := range list {
				if info.GetName() == name {
					dropped = true
					if err := c.Deregister(patient(t), int64(uuid)); err != nil {
						t.Fatal(err)
					}
				}
			}
			_ = c.Close()
			if !dropped {
				t.Fatalf("%s was not registered", name)
			}
			next[stats.RegistrationLost](t, r.events)
			next[stats.RegistrationRestored](t, r.events)
			if err := r.Health(patient(t)); err != nil {
				t.Error(err)
			}
			rows, err := r.Query(patient(t), "select value from host_facts")
			if err != nil || rows.Len() != 1 {
				t.Errorf("the host's table: %d rows, %v", rows.Len(), err)
			}
		}
		if r.RunID() != run || len(r.Snapshot().History) != 0 {
			t.Error("the run ended")
		}
	})
}

// panicky is a transport whose every call panics.
type panicky struct{}

func (panicky) Config(context.Context, extension.Node) (map[string]string, error)  { panic("config") }
func (panicky) PublishLogs(context.Context, extension.Node, extension.Batch) error { panic("logs") }
func (panicky) Queries(context.Context, extension.Node) (extension.QuerySet, error) {
	panic("queries")
}
func (panicky) WriteResults(context.Context, extension.Node, []extension.Result) error {
	panic("results")
}

type observerFunc func(context.Context, stats.Event)

func (f observerFunc) Observe(ctx context.Context, e stats.Event) { f(ctx, e) }

func TestPromise09PanicsAreContained(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, binary string) {
		r := start(t, binary, instance.WithTables(hostTable("bad", "panic")), instance.WithTransport(panicky{}),
			instance.WithObserver(observerFunc(func(context.Context, stats.Event) { panic("observer") })),
			instance.WithHealth(instance.Health{
				Interval: 20 * time.Millisecond, Failures: 1000,
				Check: func(context.Context, *instance.Instance) error { panic("checker") },
			}))
		if _, err := r.Query(patient(t), "select * from bad"); err == nil {
			t.Error("a table that panics gave rows")
		}
		if _, err := r.Query(patient(t), "select 1"); err != nil {
			t.Error(err)
		}
		seen := map[string]bool{}
		for !seen["table bad"] || !seen["health check"] || !seen["transport config"] {
			seen[next[stats.PanicCaught](t, r.events).Where] = true
		}
	})
	t.Run("gate", func(t *testing.T) {
		in := newInstance(t, osquerydtest.Start(t).Path(), instance.WithGate(func(context.Context) (func(), error) { panic("gate") }))
		_ = wantExit(t, in.Run(patient(t)), stats.PhasePrepare, stats.CausePanic)
	})
	t.Run("gate's release", func(t *testing.T) {
		in := newInstance(t, osquerydtest.Start(t, osquerydtest.WithScript(fast)).Path(),
			instance.WithGate(func(context.Context) (func(), error) { return func() { panic("release") }, nil }))
		once(t, in)
	})
}

func TestPromise10CancelledQuery(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, binary string) {
		slow := newSlow()
		r := start(t, binary, instance.WithTables(slow.table()))
		for range 3 {
			ctx, cancel := context.WithCancel(patient(t))
			done := make(chan error, 1)
			go func() {
				_, err := r.Query(ctx, "select * from slow")
				done <- err
			}()
			<-slow.started
			cancelled := time.Now()
			cancel()
			if err := <-done; !errors.Is(err, context.Canceled) {
				t.Errorf("a cancelled query gave %v", err)
			}
			if took := time.Since(cancelled); took > 100*time.Millisecond {
				t.Errorf("it returned after %v", took)
			}
			slow.proceed <- struct{}{}
			rows, err := r.Query(patient(t), "select 41 + 1 as n")
			if binary == realBinary() && (err != nil || rows.Len() != 1 || rows.Row(0).Get("n") != "42") {
				t.Errorf("the next query gave %v, %v", rows.Len(), err)
			}
			if rows, err = r.Query(patient(t), "select 1"); err != nil || rows.Len() != 1 {
				t.Errorf("the next query gave %d rows, %v", rows.Len(), err)
			}
		}
	})
}

// A machine that slept voids what was found before: a check that fails again and again
// does not end the run when there is a sleep between any two.
func TestSleepVoidsVerdicts(t *testing.T) {
	t.Parallel()
	var calls atomic.Int64
	began := time.Now()
	r := start(t, osquerydtest.Start(t, osquerydtest.WithScript(fast)).Path(),
		instance.WithHealth(instance.Health{
			Interval: 5 * time.Millisecond, Timeout: time.Second, Failures: 2, Delay: -1,
			Check: func(context.Context, *instance.Instance) error { return errors.New("always") },
		}),
		instance.WithClock(func() (time.Time, time.Duration) { // an hour of sleep at every look, for a while
			n := min(calls.Add(1), 20)
			return began.Add(time.Duration(n) * time.Hour), time.Since(began)
		}))
	for range 5 {
		if e := next[stats.Suspended](t, r.events); e.For < 59*time.Minute {
			t.Errorf("slept %v", e.For)
		}
	}
	_ = wantExit(t, r.wait(t), stats.PhaseServe, stats.CauseUnhealthy)
	if n := calls.Load(); n < 20 {
		t.Errorf("the run ended after %d looks at the clock, while the machine kept sleeping", n)
	}
}

// While the host says that the machine sleeps, no failed check counts.
func TestAnnouncedSleepVoidsVerdicts(t *testing.T) {
	t.Parallel()
	const enough = 10 // checks, of which two would end the run
	var calls atomic.Int64
	many := make(chan struct{})
	r := startUnready(t, osquerydtest.Start(t, osquerydtest.WithScript(fast)).Path(),
		instance.WithHealth(instance.Health{
			Interval: 5 * time.Millisecond,
			Timeout:  time.Second,
			Failures: 2,
			Delay:    -1,
			Check: func(context.Context, *instance.Instance) error {
				if calls.Add(1) == enough {
					close(many)
				}
				return errors.New("always")
			},
		}))
	r.SetAsleep(true)
	r.SetAsleep(true) // once is enough
	select {
	case <-many:
	case err := <-r.done:
		t.Fatalf("the run ended after %d checks although the machine slept: %v", calls.Load(), err)
	}
	r.SetAsleep(false)
	_ = wantExit(t, r.wait(t), stats.PhaseServe, stats.CauseUnhealthy)
}
