package osquerydtest_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/osqvisor/osqvisor/instance/osquerydtest"
)

func TestPidfile(t *testing.T) {
	ctx := testContext(t)
	fake := osquerydtest.Start(t, osquerydtest.WithScript(fast))
	dir := root(t)
	writeConf(t, dir, "{}")
	r := start(t, fake, dir)
	r.ready(ctx)
	raw, err := os.ReadFile(filepath.Join(dir, "pid"))
	if err != nil || string(raw) != strconv.Itoa(r.cmd.Process.Pid) {
		t.Errorf("pidfile holds %q (%v), want the watcher's pid %d", raw, err, r.cmd.Process.Pid)
	}
	second := start(t, fake, dir)
	if code := second.code(ctx); code != 1 {
		t.Errorf("second osqueryd: exit code %d, want 1", code)
	}
	second.wantStderr("osqueryd Pidfile check failed: Pidfile::Error::Busy")
	if err := r.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	r.code(ctx)
	if _, err := os.Stat(filepath.Join(dir, "pid")); !os.IsNotExist(err) {
		t.Errorf("the pidfile stays after a clean end: %v", err)
	}
}

func TestOrphanKeepsThePidfileUntilItLeaves(t *testing.T) {
	ctx := testContext(t)
	script := fast
	script.WatcherPoll = 500 * time.Millisecond
	fake := osquerydtest.Start(t, osquerydtest.WithScript(script))
	dir := root(t)
	writeConf(t, dir, "{}")
	r := start(t, fake, dir)
	w := r.ready(ctx)
	watcher, ok := w.Watcher()
	if !ok {
		t.Fatal("the worker has no watcher")
	}
	if err := r.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := watcher.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	second := start(t, fake, dir)
	if code := second.code(ctx); code != 1 {
		t.Errorf("next to an orphan: exit code %d, want 1", code)
	}
	if err := w.Wait(ctx); err != nil {
		t.Error("the orphan stays:", err)
	}
	third := start(t, fake, dir)
	third.ready(ctx)
}

func TestDatabaseLocked(t *testing.T) {
	ctx := testContext(t)
	tests := map[string]int{"--disable_watchdog=false": 78, "--disable_watchdog": 1}
	for watchdog, want := range tests {
		fake := osquerydtest.Start(t, osquerydtest.WithScript(fast))
		dir := root(t)
		writeConf(t, dir, "{}")
		start(t, fake, dir).ready(ctx)
		second := start(t, fake, dir, "--pidfile="+filepath.Join(dir, "pid2"), watchdog)
		if code := second.code(ctx); code != want {
			t.Errorf("%s: exit code %d, want %d", watchdog, code, want)
		}
		text := "IO error: While lock file: " + filepath.Join(dir, "db", "LOCK") + ": Resource temporarily unavailable"
		if n := strings.Count(second.stderr.String(), "Rocksdb open failed (5:0) "+text); n != 25 {
			t.Errorf("%s: %d tries, want 25:\n%s", watchdog, n, second.stderr)
		}
	}
}

func TestCorruptDatabaseIsBackedUp(t *testing.T) {
	ctx := testContext(t)
	fake := osquerydtest.Start(t, osquerydtest.WithScript(fast))
	dir := root(t)
	writeConf(t, dir, "{}")
	if err := os.Mkdir(filepath.Join(dir, "db"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "db", "CURRENT"), []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := start(t, fake, dir)
	r.ready(ctx)
	r.wantStderr("Backing up RocksDB database: "+filepath.Join(dir, "db.backup"), "Destroying RocksDB database due to corruption")
	if _, err := os.Stat(filepath.Join(dir, "db.backup", "CURRENT")); err != nil {
		t.Error(err)
	}
}

func TestCrashLoopEndsTheWatcherWithZero(t *testing.T) {
	ctx := testContext(t)
	script := fast.WithRule(osquerydtest.Rule{
		Phase: osquerydtest.PhaseReady, Role: osquerydtest.RoleWorker,
		Action: osquerydtest.Action{Do: osquerydtest.Kill, Signal: 9},
	})
	script.QuickDeath = 4 * time.Second
	fake := osquerydtest.Start(t, osquerydtest.WithScript(script))
	dir := root(t)
	writeConf(t, dir, "{}")
	r := start(t, fake, dir)
	if code := r.code(ctx); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	r.wantStderr("osqueryd worker respawning too quickly: 1 times", "osqueryd worker respawning too quickly: 4 times",
		"Too many worker restarts")
	if n := fake.Started(); n != 6 {
		t.Errorf("%d processes, want a watcher and five workers", n)
	}
}

func TestWatchdogKillDenylistsTheRunningQuery(t *testing.T) {
	ctx := testContext(t)
	fake := osquerydtest.Start(t, osquerydtest.WithScript(fast.WithRule(osquerydtest.Rule{
		Phase: osquerydtest.PhaseScheduled, Match: "heavy", Worker: 1,
		Action: osquerydtest.Action{Do: osquerydtest.Delay, Delay: 200 * time.Millisecond},
	})))
	dir := root(t)
	writeConf(t, dir, `{"schedule": {"heavy": {"query": "SELECT 1", "interval": 1}, "light": {"query": "SELECT 2", "interval": 600000}}}`)
	r := start(t, fake, dir)
	w := r.ready(ctx)
	waitStats(ctx, t, w, func(s osquerydtest.Stats) bool { return s.Scheduled > 0 })
	if err := w.Do(ctx, osquerydtest.Action{Do: osquerydtest.WatchdogMemory}); err != nil {
		t.Fatal(err)
	}
	next, err := fake.WaitProcess(ctx, func(p *osquerydtest.Process) bool {
		return p.PID() != w.PID() && p.Role() == osquerydtest.RoleWorker && p.Passed(osquerydtest.PhaseReady)
	})
	if err != nil {
		t.Fatal(err)
	}
	if next.Run() != 1 || !strings.Contains(next.String(), "worker 2") {
		t.Errorf("the next worker is %s", next)
	}
	row, err := r.client().QueryRow("SELECT denylisted FROM osquery_schedule WHERE name = 'heavy'")
	if err != nil || row["denylisted"] != "1" {
		t.Errorf("osquery_schedule: %v, error %v", row, err)
	}
	r.wantStderr("osqueryd worker ("+strconv.Itoa(w.PID())+") stopping: Memory limits exceeded: ", "Scheduled query may have failed: heavy")
}

func TestMissingThings(t *testing.T) {
	ctx := testContext(t)
	long := "/tmp/" + strings.Repeat("x", 103)
	tests := []struct {
		name string
		args []string
		code int // -1: stays up
		text []string
	}{
		{"config plugin", []string{"--config_plugin=none"}, 78, []string{"Cannot activate none config plugin: Unknown registry plugin: none"}},
		{"logger plugin", []string{"--logger_plugin=none"}, 78, []string{"Cannot activate none logger plugin: Unknown registry plugin: none", "Worker returned exit status"}},
		{"logger directory", []string{"--logger_path=/no/such"}, 78, []string{"Cannot activate filesystem logger plugin: Could not create file: /no/such/osqueryd.results.log"}},
		{"required extension", []string{"--extensions_require=gone", "--extensions_timeout=0"}, -1, []string{
			"Required extension not found or not loaded: gone",
			"An error occurred during extension manager startup: Required extension not found or not loaded: gone",
		}},
		{"socket directory", []string{"--extensions_socket=/no/such/em"}, -1, []string{"Extension socket directory missing: /no/such/em"}},
		{"socket path", []string{"--extensions_socket=" + long}, -1, []string{
			"Extensions disabled: cannot start extension manager (" + long + ") ( Unix Domain socket path too long)",
		}},
	}
	fake := osquerydtest.Start(t, osquerydtest.WithScript(fast))
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := root(t)
			writeConf(t, dir, "{}")
			r := start(t, fake, dir, tt.args...)
			if tt.code < 0 {
				r.ready(ctx)
			} else if code := r.code(ctx); code != tt.code {
				t.Errorf("exit code %d, want %d", code, tt.code)
			}
			r.wantStderr(tt.text...)
		})
	}
}

func TestBrokenConfig(t *testing.T) {
	ctx := testContext(t)
	fake := osquerydtest.Start(t, osquerydtest.WithScript(fast))
	dir := root(t)
	writeConf(t, dir, `{"schedule": `)
	r := start(t, fake, dir)
	w := r.ready(ctx)
	r.wantStderr("updateSource failed to parse config, of source: "+filepath.Join(dir, "conf"),
		"Error reading config: Error parsing the config JSON")

	c := r.client()
	push := func(data string) int32 {
		resp, err := c.Call("config", "update", map[string]string{"action": "update", "source": "pushed", "data": data})
		if err != nil {
			t.Fatal(err)
		}
		return resp.Status.Code
	}
	scheduled := func() int {
		rows, err := c.QueryRows("SELECT name FROM osquery_schedule")
		if err != nil {
			t.Fatal(err)
		}
		return len(rows)
	}
	if code := push(`{"schedule": {"q": {"query": "SELECT 1", "interval": 60}}}`); code != 0 || scheduled() != 1 {
		t.Errorf("push: code %d, %d queries scheduled", code, scheduled())
	}
	if code := push(`{"schedule": {`); code != 1 || scheduled() != 0 {
		t.Errorf("a broken push: code %d, %d queries scheduled; it must wipe the source", code, scheduled())
	}
	row, err := c.QueryRow("SELECT config_valid FROM osquery_info")
	if err != nil || row["config_valid"] != "1" {
		t.Errorf("config_valid: %v, error %v", row, err)
	}
	if err := w.RunSchedule(ctx, "gone"); err == nil {
		t.Error("RunSchedule of an unknown query: no error")
	}
}
