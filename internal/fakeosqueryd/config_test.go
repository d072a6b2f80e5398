package fakeosqueryd

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"
	"testing"
	"time"
)

// testWorker is a worker with a database in memory that runs nothing.
func testWorker(t *testing.T) *worker {
	t.Helper()
	p := New(Config{Args: []string{"osqueryd"}, Stdout: &bytes.Buffer{}, Stderr: &bytes.Buffer{}})
	w := newWorker(p)
	p.role = w
	w.db = &database{data: map[string]map[string]string{}}
	return w
}

func names(w *worker) string {
	var out []string
	for _, q := range w.sched.queries() {
		out = append(out, q.fullName)
	}
	return strings.Join(out, " ")
}

func TestConfigUpdate(t *testing.T) {
	w := testWorker(t)
	update := func(source, text string) error { return w.config.update(map[string]string{source: text}) }
	err := update("a", `
	  # a comment
	  {"schedule": {"z": {"query": "SELECT 1", "interval": "60"}, "bad": {"query": "SELECT 1", "interval": 0}},
	   "packs": {"p": {"discovery": ["SELECT 1"], "queries": {"q": {"query": "SELECT 2", "interval": 60}},
	                   "options": {"schedule_epoch": 7}},
	             "off": {"discovery": ["SELECT * FROM time WHERE year = 1"], "queries": {"q": {"query": "SELECT 2", "interval": 60}}},
	             "other": {"platform": "amiga", "queries": {"q": {"query": "SELECT 2", "interval": 60}}}}}`)
	if err != nil {
		t.Fatal(err)
	}
	if got := names(w); got != "z pack_p_q" {
		t.Errorf("scheduled: %q", got)
	}
	if got := w.p.flags.num("schedule_epoch"); got != 7 {
		t.Errorf("options of a pack: schedule_epoch is %d, want 7", got)
	}
	if err := update("b", "{}"); err != nil || names(w) != "z pack_p_q" {
		t.Errorf("another source: %v, %q", err, names(w))
	}
	deep := strings.Repeat(" \n", 10) + `{"x": ` + strings.Repeat("[", 40) + strings.Repeat("]", 40) + "}"
	tests := map[string]string{
		"{":  "Error parsing the config JSON",
		"[]": "Error parsing the config JSON",
		deep: "Error validating the config JSON: Configuration has too many nesting levels!",
		`{"x": "` + strings.Repeat("x", 1<<20) + `"}`: "Error parsing the config JSON: the config size exceeds the limit of 1048576 bytes",
	}
	for text, want := range tests {
		if err := update("a", text); err == nil || err.Error() != want {
			t.Errorf("%.20q: error %v, want %s", text, err, want)
		}
		if got := names(w); got != "" {
			t.Errorf("a broken config leaves %q scheduled", got)
		}
	}
	if err := update("a", "{{"); err == nil {
		t.Error("a broken text after another: no error")
	}
	if err := update("a", "{{"); err != nil {
		t.Errorf("the same broken text again must count as unchanged: %v", err)
	}
}

func TestConfigBackup(t *testing.T) {
	w := testWorker(t)
	if err := w.p.flags.set("config_enable_backup", "true"); err != nil {
		t.Fatal(err)
	}
	text := `{"schedule": {"kept": {"query": "SELECT 1", "interval": 60}}}`
	if err := w.config.update(map[string]string{"main": text}); err != nil {
		t.Fatal(err)
	}
	next := testWorker(t)
	next.db = w.db
	_ = next.p.flags.set("config_enable_backup", "true")
	next.registry.active["config"] = "filesystem"
	_ = next.p.flags.set("config_path", "/no/such/file")
	if err := next.config.refresh(); err == nil {
		t.Error("a missing config file: no error")
	}
	if got := names(next); got != "kept" {
		t.Errorf("restored schedule %q", got)
	}
	if _, valid := next.config.hash(); valid {
		t.Error("the config is valid although nothing was read")
	}
}

func TestDistributedDenylist(t *testing.T) {
	w := testWorker(t)
	const sql = "SELECT 1"
	sum := sha256.Sum256([]byte(sql))
	key := hex.EncodeToString(sum[:])
	since := func(age time.Duration) {
		_ = w.db.put(domainRunning, key, strconv.FormatInt(time.Now().Add(-age).Unix(), 10))
	}
	since(time.Hour)
	if r := w.dist.runOne("id", sql); r.status != 1 || r.message != "distributed query is denylisted" {
		t.Errorf("a query that killed the worker: %+v", r)
	}
	since(25 * time.Hour)
	if r := w.dist.runOne("id", sql); r.status != 0 || len(r.rows) != 1 {
		t.Errorf("after a day: %+v", r)
	}
	if _, ok := w.db.get(domainRunning, key); ok {
		t.Error("a query that has ended is still marked as running")
	}
}

func TestDistributedAccelerate(t *testing.T) {
	w := testWorker(t)
	if err := w.dist.accept(`{"queries": {}, "accelerate": "300"}`); err != nil {
		t.Fatal(err)
	}
	if got := w.dist.interval(); got != time.Minute {
		t.Errorf("interval %v: accelerate must be an int", got)
	}
	if err := w.dist.accept(`{"queries": {}, "accelerate": 300}`); err != nil {
		t.Fatal(err)
	}
	if got := w.dist.interval(); got != 5*time.Second {
		t.Errorf("interval %v, want 5 s", got)
	}
}

func TestSplayIsRemembered(t *testing.T) {
	w := testWorker(t)
	first := w.config.splay("q", 3600)
	if first < 3240 || first > 3960 {
		t.Errorf("splayed %d is beyond 10 %% of 3600", first)
	}
	for range 20 {
		if got := w.config.splay("q", 3600); got != first {
			t.Fatalf("splayed anew: %d, then %d", first, got)
		}
	}
	if got := w.config.splay("short", 5); got != 5 {
		t.Errorf("5 s splayed to %d", got)
	}
}
