package runtime_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/instance/osquerydtest"
	"github.com/osqvisor/osqvisor/internal/testhelp"
	"github.com/osqvisor/osqvisor/runtime"
	"github.com/osqvisor/osqvisor/stats"
)

func TestPromise01RunReturnsWhenAllIsGone(t *testing.T) {
	each(t, func(t *testing.T, d osqueryd) {
		var over atomic.Bool
		callback := func(what string) {
			if over.Load() {
				t.Errorf("%s was called after Run returned", what)
			}
		}
		transport := extension.Funcs{
			ConfigFunc: func(context.Context, extension.Node) (map[string]string, error) {
				callback("the transport")
				return map[string]string{"a": `{"schedule":{"t":{"query":"select 1","interval":1}}}`}, nil
			},
			LogsFunc: func(context.Context, extension.Node, extension.Batch) error {
				callback("the transport")
				return nil
			},
		}
		observer := stats.ObserverFunc(func(context.Context, stats.Event) { callback("the observer") })
		h := newHost(t, d, runtime.WithTransport(transport), runtime.WithObserver(observer),
			runtime.WithInstance("vendor"), runtime.WithInstance("tenant-a"), runtime.WithInstance("tenant-b"))
		left := testhelp.LeakCheck()
		for range 2 { // Run may be called again
			over.Store(false)
			h.run(t)
			h.ready(t, h.IDs()...)
			var pids []int
			for _, id := range h.IDs() {
				pids = append(pids, h.pid(t, id), h.worker(t, id))
			}
			h.stop()
			over.Store(true)
			for _, pid := range pids {
				if testhelp.Alive(pid) {
					t.Errorf("process %d is alive after Run returned", pid)
				}
			}
			wantNoFiles(t, h)
			if err := left(); err != nil {
				t.Error(err)
			}
		}
		if n := len(testhelp.EventsOf[stats.RunEnded](h.events, "")); n != 6 {
			t.Errorf("%d runs ended, want 6", n)
		}
	})
}

func wantNoFiles(t *testing.T, h *host) {
	t.Helper()
	for _, id := range h.IDs() {
		in, err := h.Instance(id)
		if err != nil {
			t.Fatal(err)
		}
		for _, pattern := range []string{in.Socket(), in.Socket() + ".*", filepath.Join(in.Directory(), "*.pid")} {
			if found, _ := filepath.Glob(pattern); len(found) > 0 {
				t.Errorf("left after Run: %v", found)
			}
		}
		if s := in.Snapshot(); s.State != stats.StateStopped || s.Run != nil {
			t.Errorf("%s is %s after Run, want stopped", id, s.State)
		}
	}
}

func TestPromise02StopIsDecidedByOurContext(t *testing.T) {
	t.Run("killed during the stop", func(t *testing.T) {
		each(t, func(t *testing.T, d osqueryd) {
			var h *host
			var once sync.Once
			killer := stats.ObserverFunc(func(_ context.Context, e stats.Event) {
				if _, ok := e.(stats.RunStopping); ok {
					once.Do(func() {
						if p, err := os.FindProcess(h.pid(t, "vendor")); err == nil {
							_ = p.Kill() // it may have gone already, as it was asked to
						}
					})
				}
			})
			h = newHost(t, d, runtime.WithInstance("vendor"), runtime.WithObserver(killer))
			wantRequested(t, h)
		})
	})
	for name, action := range map[string]osquerydtest.Action{
		"exit 78":  {Do: osquerydtest.Exit, Code: 78},
		"sigkill":  {Do: osquerydtest.Kill},
		"deafness": {Do: osquerydtest.Delay, Delay: time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			testhelp.CheckLeaks(t)
			d := fakeWith(t, osquerydtest.Rule{Phase: osquerydtest.PhaseStop, Action: action})
			wantRequested(t, newHost(t, d, runtime.WithInstance("vendor",
				instance.WithTimeouts(instance.Timeouts{Stop: 2 * time.Second}), instance.WithWatchdog(instance.Watchdog{Disabled: true}))))
		})
	}
}

func wantRequested(t *testing.T, h *host) {
	t.Helper()
	h.run(t)
	h.ready(t, "vendor")
	h.stop()
	ended := testhelp.EventsOf[stats.RunEnded](h.events, "")
	if len(ended) != 1 || ended[0].Cause != stats.CauseRequested {
		t.Errorf("runs ended: %+v, want one, as requested", ended)
	}
}

func TestPromise02CanceledErrorsOfOthersAreNoStop(t *testing.T) {
	each(t, func(t *testing.T, d osqueryd) {
		var calls atomic.Int32
		transport := extension.Funcs{
			ConfigFunc: func(context.Context, extension.Node) (map[string]string, error) { return nil, context.Canceled },
			LogsFunc:   func(context.Context, extension.Node, extension.Batch) error { return context.Canceled },
			QueriesFunc: func(context.Context, extension.Node) (extension.QuerySet, error) {
				return extension.QuerySet{}, context.Canceled
			},
		}
		checker := func(context.Context, *instance.Instance) error {
			if calls.Add(1) == 2 {
				return context.Canceled
			}
			return nil
		}
		h := newHost(t, d, runtime.WithTransport(transport), runtime.WithInstance("vendor",
			instance.WithHealth(instance.Health{Interval: 50 * time.Millisecond, Failures: 1, Check: checker})))
		h.run(t)
		scheduled := testhelp.WaitEvents[stats.RestartScheduled](t, h.events, "vendor", 1)
		if scheduled[0].Cause != stats.CauseUnhealthy {
			t.Errorf("cause %q, want %q", scheduled[0].Cause, stats.CauseUnhealthy)
		}
		testhelp.WaitEvents[stats.RunReady](t, h.events, "vendor", 2)
		h.answers(t, "vendor")
	})
}

func TestPromise12WaitsAreBoundedByTheCaller(t *testing.T) {
	testhelp.CheckLeaks(t)
	d := fakeWith(t,
		osquerydtest.Rule{Phase: osquerydtest.PhaseBeforeSocket, Action: osquerydtest.Action{Do: osquerydtest.NoSocket}},
		osquerydtest.Rule{Phase: osquerydtest.PhaseStart, Action: osquerydtest.Action{Do: osquerydtest.IgnoreTerm}})
	h := newHost(t, d, runtime.WithInstance("vendor", instance.WithTimeouts(instance.Timeouts{Stop: 5 * time.Second})))
	h.run(t)
	if _, err := d.fake.WaitProcess(testhelp.Context(t), func(p *osquerydtest.Process) bool {
		return p.Passed(osquerydtest.PhaseBeforeSocket) // from here on it is deaf
	}); err != nil {
		t.Fatal(err)
	}
	for _, wait := range []struct {
		name string
		do   func(ctx context.Context) error
	}{
		{"WaitReady", func(ctx context.Context) error { return h.WaitReady(ctx, "vendor") }},
		{"Restart", func(ctx context.Context) error { return h.Restart(ctx, "vendor") }},
		{"Update", func(ctx context.Context) error {
			_, err := h.Update(ctx, "vendor", instance.WithEnv("UPDATED=1"))
			return err
		}},
		{"Restart during Update", func(ctx context.Context) error { return h.Restart(ctx, "vendor") }},
		{"Remove", func(ctx context.Context) error { return h.Remove(ctx, "vendor") }},
		{"Remove again", func(ctx context.Context) error { return h.Remove(ctx, "vendor") }},
	} {
		ctx, cancel := context.WithTimeout(testhelp.Context(t), 20*time.Millisecond)
		err := wait.do(ctx)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "vendor") {
			t.Errorf("%s: %v, want the deadline and the instance's name", wait.name, err)
		}
	}
	h.stop() // bounded by the grace, although osqueryd ignores SIGTERM
}

func TestPromise13FailedStartSaysWhy(t *testing.T) {
	testhelp.CheckLeaks(t)
	d := fakeWith(t,
		osquerydtest.Rule{Phase: osquerydtest.PhaseStart, Action: osquerydtest.Action{
			Do: osquerydtest.Say, Text: "E0102 03:04:05.000000 7 x.cpp:9] the sky fell",
		}},
		osquerydtest.Rule{Phase: osquerydtest.PhaseStart, Action: osquerydtest.Action{Do: osquerydtest.Exit, Code: 7}})
	h := newHost(t, d, runtime.WithInstance("vendor"), runtime.WithRestart(runtime.RestartPolicy{
		Causes: map[stats.Cause]runtime.CausePolicy{stats.CauseExit: {Park: true}},
	}))
	h.run(t)
	err := h.WaitReady(testhelp.Context(t), "vendor")
	if !errors.Is(err, runtime.ErrParked) {
		t.Fatalf("WaitReady: %v, want ErrParked", err)
	}
	for _, want := range []string{"vendor", "connect", "exit code 7", "the sky fell", "osqueryd ended by itself"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in the error: %v", want, err)
		}
	}
	if err := h.Healthy().Err(); err == nil || !strings.Contains(err.Error(), "exit code 7") {
		t.Errorf("the summary tells nothing of the cause: %v", err)
	}
	parked := testhelp.WaitEvents[stats.InstanceParked](t, h.events, "vendor", 1)
	var exit *instance.ExitError
	if !errors.As(parked[0].Err, &exit) || exit.Code != 7 || exit.Phase != stats.PhaseConnect || len(exit.Stderr) == 0 {
		t.Errorf("parked because of %+v", exit)
	}
}

// Run returns within the instances' Timeouts.Stop, whatever of osqueryd, the server and the host
// hangs then.
func TestPromise12RunReturnsWithinTheStopOfItsInstances(t *testing.T) {
	const bound, slack = 5 * time.Second, 3 * time.Second // the log has a second, and the machine is busy
	release, called := make(chan struct{}), make(chan struct{}, 1)
	defer close(release)
	transport := extension.Funcs{LogsFunc: func(context.Context, extension.Node, extension.Batch) error {
		select {
		case called <- struct{}{}:
		default:
		}
		<-release
		return nil
	}}
	observer := stats.ObserverFunc(func(_ context.Context, e stats.Event) {
		if _, ok := e.(stats.RunStopping); ok {
			<-release
		}
	})
	d := fakeWith(t, osquerydtest.Rule{Phase: osquerydtest.PhaseStart, Action: osquerydtest.Action{Do: osquerydtest.IgnoreTerm}})
	h := newHost(t, d, runtime.WithTransport(transport),
		runtime.WithInstanceDefaults(instance.WithTimeouts(instance.Timeouts{Stop: bound}), instance.WithObserver(observer)),
		runtime.WithInstance("vendor"), runtime.WithInstance("tenant"))
	h.run(t)
	h.ready(t, "vendor", "tenant")
	worker, err := d.fake.WaitWorker(testhelp.Context(t), "")
	must(t, err)
	must(t, worker.Emit(testhelp.Context(t), `{"name":"q"}`))
	<-called
	began := time.Now()
	h.stop()
	if took := time.Since(began); took > bound+slack {
		t.Errorf("Run took %v to return", took)
	}
}
