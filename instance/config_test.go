package instance_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/stats"
)

// Whatever many pushes overlap, the newest config is in force in the end.
func TestTrial20NewestConfigIsInForce(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, binary string) {
		server := extension.NewMemory()
		server.SetConfig("vendor", map[string]string{"main": hourly("first")})
		r := start(t, binary, instance.WithTransport(server))
		waitScheduled(t, r, "first")
		for round := range 5 {
			var pushes sync.WaitGroup
			for i := range 8 {
				server.SetConfig("vendor", map[string]string{"main": hourly(fmt.Sprintf("q%d_%d", round, i))})
				pushes.Go(func() {
					if err := r.PushConfig(patient(t)); err != nil {
						t.Error(err)
					}
				})
			}
			pushes.Wait()
			wantScheduled(t, r, fmt.Sprintf("q%d_7", round))
		}
	})
}

// A config that tries to take over what the command line has changes none of it, nor does it end
// osqueryd, as numeric monitoring without a place for its file does.
func TestTrial27ConfigTakesNothingOver(t *testing.T) {
	t.Parallel()
	const options = `{"disable_events": false, "disable_audit": false, "audit_allow_config": true, "enable_file_events": true,
		"enable_syslog": true, "syslog_pipe_path": "/nowhere/pipe", "logger_min_status": 3, "logger_min_stderr": 3,
		"logger_event_type": false, "extensions_default_index": false, "enable_numeric_monitoring": true,
		"numeric_monitoring_filesystem_path": "/nowhere/numeric.log", "db_path": "/nowhere/db", "events_max": 0.5}`
	each(t, func(t *testing.T, binary string) {
		server := extension.NewMemory()
		server.SetConfig("vendor", map[string]string{"main": `{"options": ` + options + `,
			"packs": {"p": {"options": ` + options + `, "queries": {"q": {"query": "select 1 as one", "interval": 3600}}}}}`})
		r := start(t, binary, instance.WithTransport(server))
		waitScheduled(t, r, "pack_p_q")
		rows, err := r.Query(patient(t), "select name, value from osquery_flags")
		if err != nil {
			t.Fatal(err)
		}
		seen := 0
		for _, row := range rows.Maps() {
			want, watched := map[string]string{
				"disable_events": "true", "disable_audit": "true", "audit_allow_config": "false", "enable_file_events": "false",
				"enable_syslog": "false", "logger_min_status": "0", "logger_min_stderr": "0", "logger_event_type": "true",
				"extensions_default_index": "true", "enable_numeric_monitoring": "false", "events_max": "50000",
			}[row["name"]]
			if watched {
				seen++
			}
			if watched && row["value"] != want {
				t.Errorf("%s is %s, want %s", row["name"], row["value"], want)
			}
			if strings.Contains(row["value"], "nowhere") {
				t.Errorf("%s is %s", row["name"], row["value"])
			}
		}
		if seen == 0 {
			t.Error("osqueryd lists none of the flags")
		}
	})
}

// A worker that dies twice with a new config gets the one before, and the server's no more.
func TestTrial28WorkerDiesOfItsConfig(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, binary string) {
		server := extension.NewMemory()
		server.SetConfig("vendor", map[string]string{"main": hourly("deadly")})
		r := start(t, binary, instance.WithTransport(server), instance.WithConfig(extension.Config{Probation: time.Hour}))
		for _, stale := range []bool{false, true} {
			waitScheduled(t, r, "deadly")
			rows, err := r.Query(patient(t), "select pid from osquery_info")
			if err != nil {
				t.Fatal(err)
			}
			kill(t, atoi(t, rows.Row(0).Get("pid")))
			waitReplacedAndServed(t, r, stale)
		}
		waitScheduled(t, r)
		if n := r.Snapshot().Totals.ConfigsSetAside; n != 1 {
			t.Errorf("%d configs are counted as set aside", n)
		}
		push(t, r, server, map[string]string{"main": hourly("harmless")})
		wantScheduled(t, r, "harmless")
	})
}

// waitReplacedAndServed waits until there is a new worker and, if stale is set, it was handed
// another config than the server's.
func waitReplacedAndServed(t *testing.T, r *running, stale bool) {
	t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for replaced, served := false, !stale; !replaced || !served; {
		select {
		case ev := <-r.events.ch:
			switch ev := ev.(type) {
			case stats.WorkerReplaced:
				replaced = true
			case stats.ConfigServed:
				served = served || ev.Stale
			}
		case <-timer.C:
			t.Fatalf("replaced: %v, handed a config: %v", replaced, served)
		}
	}
}

// A process that someone kills proves nothing against the config; one that crashes does.
func TestTrial28WhichEndsCount(t *testing.T) {
	t.Parallel()
	counts := func(cause stats.Cause, code int, signal string) bool {
		return instance.ConfigMayBe(&instance.ExitError{Cause: cause, Code: code, Signal: signal})
	}
	for _, signal := range []string{"SIGSEGV", "SIGABRT", "SIGFPE", "SIGBUS", "SIGILL"} {
		if !counts(stats.CauseSignal, -1, signal) {
			t.Errorf("%s does not count", signal)
		}
	}
	for _, signal := range []string{"SIGKILL", "SIGTERM", "SIGINT", "SIGHUP"} {
		if counts(stats.CauseSignal, -1, signal) {
			t.Errorf("%s counts", signal)
		}
	}
	if !counts(stats.CauseExit, 78, "") || counts(stats.CauseExit, 0, "") {
		t.Error("78 has to count, and 0 must not")
	}
	for _, cause := range []stats.Cause{stats.CauseOutOfMemory, stats.CauseCrashLoop, stats.CauseUnhealthy, stats.CauseStartTimeout} {
		if !counts(cause, 0, "") {
			t.Errorf("%q does not count", cause)
		}
	}
	if slices.ContainsFunc([]stats.Cause{
		stats.CauseRequested, stats.CauseDatabaseLocked, stats.CauseDirectory, stats.CauseBinaryMissing,
		stats.CauseLeftover, stats.CausePidfileBusy,
	}, func(c stats.Cause) bool { return counts(c, 1, "") }) {
		t.Error("what no config does counts")
	}
}
