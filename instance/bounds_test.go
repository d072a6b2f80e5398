package instance_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/instance/osquerydtest"
	"github.com/osqvisor/osqvisor/stats"
)

// Every phase in which osqueryd hangs ends within what the options say.
func TestPromise12EveryWaitIsBounded(t *testing.T) {
	t.Parallel()
	hang := osquerydtest.Action{Do: osquerydtest.Hang}
	const bound = 10 * time.Second // far above the options' sum, and far below their defaults'
	timeouts := instance.Timeouts{
		Start: 1500 * time.Millisecond, Register: 200 * time.Millisecond, Replace: 300 * time.Millisecond, Stop: 4 * time.Second,
	}
	health := instance.Health{Interval: 20 * time.Millisecond, Timeout: 100 * time.Millisecond, Failures: 2}
	opts := []instance.Option{instance.WithTimeouts(timeouts), instance.WithHealth(health)}
	for _, tt := range []struct {
		phase osquerydtest.Phase
		at    stats.Phase
		cause stats.Cause
	}{
		{osquerydtest.PhaseStart, stats.PhaseConnect, stats.CauseStartTimeout},
		{osquerydtest.PhaseBeforeDatabase, stats.PhaseConnect, stats.CauseStartTimeout},
		{osquerydtest.PhaseBeforeSocket, stats.PhaseConnect, stats.CauseStartTimeout},
		{osquerydtest.PhaseRegister, stats.PhaseRegister, stats.CauseStartTimeout},
	} {
		t.Run(string(tt.phase), func(t *testing.T) {
			fake := osquerydtest.Start(t, osquerydtest.WithScript(fast.WithRule(osquerydtest.Rule{Phase: tt.phase, Action: hang})))
			in := newInstance(t, fake.Path(), opts...)
			began := time.Now()
			_ = wantExit(t, in.Run(patient(t)), tt.at, tt.cause)
			if took := time.Since(began); took > bound {
				t.Errorf("it took %v", took)
			}
			nothingLeft(t, in)
		})
	}
	t.Run("hang while serving", func(t *testing.T) {
		fake := osquerydtest.Start(t, osquerydtest.WithScript(fast))
		in := newInstance(t, fake.Path(), opts...)
		done := make(chan error, 1)
		go func() { done <- in.Run(patient(t)) }()
		p, err := fake.WaitWorker(patient(t), "")
		if err != nil {
			t.Fatal(err)
		}
		if err := in.WaitReady(patient(t)); err != nil {
			t.Fatal(err)
		}
		go func() { _ = p.Do(patient(t), hang) }()
		_ = wantExit(t, <-done, stats.PhaseServe, stats.CauseUnhealthy)
	})
	t.Run("host that never returns", func(t *testing.T) {
		release := make(chan struct{})
		hung := func(context.Context, *instance.Instance) error { <-release; return nil }
		health.Check = hung
		in := newInstance(t, osquerydtest.Start(t, osquerydtest.WithScript(fast)).Path(), append(opts, instance.WithHealth(health))...)
		t.Cleanup(func() { close(release) })
		began := time.Now()
		_ = wantExit(t, in.Run(patient(t)), stats.PhaseServe, stats.CauseUnhealthy)
		if took := time.Since(began); took > bound {
			t.Errorf("it took %v", took)
		}
	})
	t.Run("transport that never returns", func(t *testing.T) {
		release := make(chan struct{})
		in := newInstance(t, osquerydtest.Start(t, osquerydtest.WithScript(fast)).Path(), append(opts,
			instance.WithTransport(extension.Funcs{ConfigFunc: func(context.Context, extension.Node) (map[string]string, error) {
				<-release
				return nil, nil
			}}))...)
		t.Cleanup(func() { close(release) })
		began := time.Now()
		once(t, in)
		if took := time.Since(began); took > bound {
			t.Errorf("it took %v", took)
		}
	})
}

// Every failed start says where, why, with what code, what osqueryd printed and what to do.
func TestPromise13FailedStartsSayWhy(t *testing.T) {
	t.Parallel()
	const glog = "E1121 02:00:00.000000  42 shutdown.cpp:86] "
	const pidfile = "E1121 02:00:00.000000  42 init.cpp:520] osqueryd Pidfile check failed: Pidfile::Error::Busy"
	const corrupt = "I1121 02:00:00.000000  42 rocksdb.cpp:181] Rocksdb open failed (2:0) Corruption: x"
	tests := map[string]struct {
		phase osquerydtest.Phase
		say   string
		code  int
		at    stats.Phase
		want  stats.Cause
	}{
		"flag":    {osquerydtest.PhaseStart, "ERROR: unknown command line flag 'x'", 1, stats.PhaseConnect, stats.CauseFlagRefused},
		"pidfile": {osquerydtest.PhaseBeforePidfile, pidfile, 1, stats.PhaseConnect, stats.CausePidfileBusy},
		"library": {
			osquerydtest.PhaseStart, "osqueryd: error while loading shared libraries: libx.so", 127,
			stats.PhaseConnect, stats.CauseBinaryUnusable,
		},
		"database lock": {
			osquerydtest.PhaseStart, glog + "IO error: While lock file: /x/LOCK: Resource temporarily unavailable", 78,
			stats.PhaseConnect, stats.CauseDatabaseLocked,
		},
		"corruption": {osquerydtest.PhaseStart, corrupt, 78, stats.PhaseConnect, stats.CauseDatabaseCorrupt},
		"crash loop": {osquerydtest.PhaseStart, glog + "Too many worker restarts", 0, stats.PhaseConnect, stats.CauseCrashLoop},
		"exit 0":     {osquerydtest.PhaseStart, "bye", 0, stats.PhaseConnect, stats.CauseExit},
		"exit 1":     {osquerydtest.PhaseStart, "bye", 1, stats.PhaseConnect, stats.CauseExit},
		"exit 78":    {osquerydtest.PhaseStart, "bye", 78, stats.PhaseConnect, stats.CauseExit},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			script := fast
			for _, do := range []osquerydtest.Action{{Do: osquerydtest.Say, Text: tt.say}, {Do: osquerydtest.Exit, Code: tt.code}} {
				script = script.WithRule(osquerydtest.Rule{Phase: tt.phase, Role: osquerydtest.RoleWatcher, Action: do})
			}
			in := newInstance(t, osquerydtest.Start(t, osquerydtest.WithScript(script)).Path())
			e := wantExit(t, in.Run(patient(t)), tt.at, tt.want)
			if e.Code != tt.code || e.Uptime <= 0 || e.Run == "" || e.Instance != "vendor" {
				t.Errorf("code %d, uptime %v, run %q, instance %q", e.Code, e.Uptime, e.Run, e.Instance)
			}
			if n := len(e.Stderr); n == 0 || e.Stderr[n-1] != tt.say {
				t.Errorf("stderr %q does not end with %q", e.Stderr, tt.say)
			}
			wantTexts(t, e.Error(), `"vendor"`, string(tt.at), string(tt.want), fmt.Sprintf("exit code %d", tt.code), tt.say, e.Hint)
			h := in.Snapshot().History[0]
			if h.Cause != tt.want || h.Code != tt.code || h.Error == "" {
				t.Errorf("history: %+v", h)
			}
		})
	}
}
