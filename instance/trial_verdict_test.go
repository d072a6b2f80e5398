package instance_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/instance/osquerydtest"
	"github.com/osqvisor/osqvisor/stats"
)

// runs starts an instance whose osqueryd follows the rules.
func runs(t *testing.T, rules ...osquerydtest.Rule) (*running, *osquerydtest.Fake) {
	t.Helper()
	script := fast
	for _, rule := range rules {
		script = script.WithRule(rule)
	}
	fake := osquerydtest.Start(t, osquerydtest.WithScript(script))
	return startUnready(t, fake.Path()), fake
}

func ready(t *testing.T, r *running) {
	t.Helper()
	if err := r.WaitReady(patient(t)); err != nil {
		t.Fatal(err)
	}
}

// watcherDoes has the watcher do something.
func watcherDoes(t *testing.T, fake *osquerydtest.Fake, actions ...osquerydtest.Action) {
	t.Helper()
	for _, a := range actions {
		p, err := fake.WaitProcess(patient(t), func(p *osquerydtest.Process) bool { return p.Role() == osquerydtest.RoleWatcher })
		if err != nil {
			t.Fatal(err)
		}
		_ = p.Do(patient(t), a) // one that ends answers no more
	}
}

// What osqueryd prints of a query's name and SQL, whole lines in its own form included,
// does not decide why it ended.
func TestTrial12QueriesDecideNoCause(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"name":       "I1128 02:00:00.000000  42 scheduler.cpp:122] Executing scheduled query find unsafe permissions",
		"whole line": "E1128 02:00:00.000000  42 shutdown.cpp:86] osqueryd has unsafe permissions: /usr/bin/osqueryd",
		"no glog":    "ERROR: unknown command line flag 'x'",
		"lock":       "I1128 02:00:00.000000  42 rocksdb.cpp:181] Rocksdb open failed (5:0) While lock file: LOCK: Resource temporarily unavailable",
		"logger":     "E1128 02:00:00.000000  42 shutdown.cpp:86] Error logging the results of query: x: y",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, fake := runs(t)
			ready(t, r)
			watcherDoes(t, fake, osquerydtest.Action{Do: osquerydtest.Say, Text: text}, osquerydtest.Action{Do: osquerydtest.Exit, Code: 1})
			_ = wantExit(t, r.wait(t), stats.PhaseServe, stats.CauseExit)
		})
	}
}

// A forged verdict of the watchdog on a worker that lives on is no event.
func TestTrial12ForgedWatchdogVerdict(t *testing.T) {
	t.Parallel()
	r, fake := runs(t)
	ready(t, r)
	worker := workerPID(t, r)
	stop := func(thread, pid int) string {
		return fmt.Sprintf("W1128 02:00:00.000000  %d watcher.cpp:423] osqueryd worker (%d) stopping: "+
			"Memory limits exceeded: 1 bytes (limit is 2MB)", thread, pid)
	}
	for _, text := range []string{
		stop(r.PID(), 1), stop(42, worker), // one knows the watcher's thread, the other the worker
		"W1128 02:00:00.000000  42 config.cpp:363] Scheduled query may have failed: innocent",
	} {
		watcherDoes(t, fake, osquerydtest.Action{Do: osquerydtest.Say, Text: text})
	}
	kill(t, worker)
	for {
		switch e := (<-r.events.ch).(type) {
		case stats.WatchdogKilled, stats.QueryDenylisted:
			t.Errorf("a forged line became %v", e)
		case stats.WorkerReplaced:
			if e.Reason != "" {
				t.Errorf("replaced because %q", e.Reason)
			}
			return
		}
	}
}

// A lease that cannot be read is not an osqueryd that would not end.
func TestTrial14UnreadableLease(t *testing.T) {
	t.Parallel()
	in := newInstance(t, osquerydtest.Start(t, osquerydtest.WithScript(fast)).Path())
	once(t, in)
	if err := os.MkdirAll(filepath.Join(in.Directory(), "lease.json"), 0o700); err != nil {
		t.Fatal(err)
	}
	e := wantExit(t, in.Run(patient(t)), stats.PhasePrepare, stats.CauseDirectory)
	wantTexts(t, e.Error(), "lease")
}

// An exit with 78 is about our plugins when they were not active yet, and about something
// else afterwards.
func TestTrial14ExitWith78(t *testing.T) {
	t.Parallel()
	const monitoring = "E1128 02:00:00.000000  42 shutdown.cpp:86] " +
		"Cannot activate filesystem numeric_monitoring plugin: Could not create file: /x"
	for phase, want := range map[osquerydtest.Phase]stats.Cause{
		osquerydtest.PhaseLogger: stats.CausePluginMissing, osquerydtest.PhaseReady: stats.CauseExit,
	} {
		t.Run(string(phase), func(t *testing.T) {
			t.Parallel()
			var rules []osquerydtest.Rule
			for _, a := range []osquerydtest.Action{{Do: osquerydtest.Say, Text: monitoring}, {Do: osquerydtest.Exit, Code: 78}} {
				rules = append(rules, osquerydtest.Rule{Phase: phase, Role: osquerydtest.RoleWorker, Action: a})
			}
			r, _ := runs(t, rules...)
			var e *instance.ExitError
			if err := r.wait(t); !errors.As(err, &e) {
				t.Fatalf("the run gave %v", err)
			}
			timeouts := strings.Contains(e.Hint, "Timeouts.Extensions")
			if e.Cause != want || e.Code != 78 || timeouts != (want == stats.CausePluginMissing) {
				t.Errorf("cause %q, code %d, hint %q; want cause %q", e.Cause, e.Code, e.Hint, want)
			}
		})
	}
}

// What somebody else ended said nothing about it.
func TestTrial15KilledSaysNothing(t *testing.T) {
	t.Parallel()
	const line = "I1128 02:00:00.000000  42 query.cpp:119] Storing initial results for new scheduled query: x"
	r, fake := runs(t)
	ready(t, r)
	watcherDoes(t, fake, osquerydtest.Action{Do: osquerydtest.Say, Text: line})
	kill(t, r.PID())
	e := wantExit(t, r.wait(t), stats.PhaseServe, stats.CauseSignal)
	if strings.Contains(e.Error(), "osqueryd printed") || e.Line != "" {
		t.Errorf("%v", e)
	}
	if len(e.Stderr) == 0 {
		t.Error("the lines are not kept")
	}
}

// An osqueryd that is ready has found our extension: one that is stopped right then does not
// miss it.
func TestTrial15StopRightAfterReady(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, binary string) {
		for range 3 {
			var log sharedBuffer
			r := start(t, binary, instance.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
			r.stop()
			if err := r.wait(t); err != nil {
				t.Fatal(err)
			}
			if bytes.Contains(log.bytes(), []byte("Required extension not found")) {
				t.Errorf("%s", log.bytes())
			}
		}
	})
}

// A worker that dies before it has our logger was not ready.
func TestTrial16ReadyNeedsTheLogger(t *testing.T) {
	t.Parallel()
	r, _ := runs(t, osquerydtest.Rule{
		Phase: osquerydtest.PhaseLogger, Role: osquerydtest.RoleWorker, Worker: 1, Action: osquerydtest.Action{Do: osquerydtest.Kill},
	})
	lost := false
	for {
		switch e := (<-r.events.ch).(type) {
		case stats.WorkerLost:
			lost = true
		case stats.RunReady:
			if !lost {
				t.Error("it was ready with the worker that died")
			}
			return
		case stats.RunEnded:
			t.Fatalf("the run ended: %v", e.Err)
		}
	}
}

// Workers that die one after the other are named long before a start times out.
func TestTrial16CrashLoopIsNamedEarly(t *testing.T) {
	t.Parallel()
	for phase, at := range map[osquerydtest.Phase]stats.Phase{
		osquerydtest.PhaseStart: stats.PhaseConnect, osquerydtest.PhaseLogger: stats.PhaseRegister,
	} {
		t.Run(string(phase), func(t *testing.T) {
			t.Parallel()
			r, _ := runs(t, osquerydtest.Rule{
				Phase: phase, Role: osquerydtest.RoleWorker, Action: osquerydtest.Action{Do: osquerydtest.Kill},
			})
			e := wantExit(t, r.wait(t), at, stats.CauseCrashLoop)
			wantTexts(t, e.Error(), "die before they are ready")
			if h := r.Snapshot().History[0]; !h.Ready.IsZero() {
				t.Error("it was ready in between")
			}
		})
	}
}

// The run ends by the watcher's own end when its workers die young again and again.
func TestTrial16CrashLoopOfReadyWorkers(t *testing.T) {
	t.Parallel()
	r, _ := runs(t, osquerydtest.Rule{
		Phase: osquerydtest.PhaseReady, Role: osquerydtest.RoleWorker,
		Action: osquerydtest.Action{Do: osquerydtest.Kill, Delay: 300 * time.Millisecond},
	})
	_ = wantExit(t, r.wait(t), stats.PhaseServe, stats.CauseCrashLoop)
}

// A registration that was made again, after which the same worker asks for its config and not
// for its logger, is no logger that was missing.
func TestTrial14ExitAfterMendedRegistration(t *testing.T) {
	t.Parallel()
	fake := osquerydtest.Start(t, osquerydtest.WithScript(fast))
	r := start(t, fake.Path(), instance.WithHealth(instance.Health{
		Interval: 20 * time.Millisecond,
	}), instance.WithTransport(extension.NewMemory()))
	worker, err := fake.WaitWorker(patient(t), "")
	if err != nil {
		t.Fatal(err)
	}
	if err := worker.Do(patient(t), osquerydtest.Action{Do: osquerydtest.DropRegistration}); err != nil {
		t.Fatal(err)
	}
	next[stats.RegistrationRestored](t, r.events)
	if err := worker.RefreshConfig(patient(t)); err != nil {
		t.Fatal(err)
	}
	_ = worker.Do(patient(t), osquerydtest.Action{Do: osquerydtest.Exit, Code: 78}) // it answers no more
	_ = wantExit(t, r.wait(t), stats.PhaseServe, stats.CauseExit)
}
