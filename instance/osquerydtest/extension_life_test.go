package osquerydtest_test

import (
	"encoding/json"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/osquery/osquery-go/plugin/distributed"

	"github.com/osqvisor/osqvisor/instance/osquerydtest"
)

type logLine struct {
	Name    string            `json:"name"`
	Counter int               `json:"counter"`
	Action  string            `json:"action"`
	Columns map[string]any    `json:"columns"`
	Rows    []map[string]any  `json:"snapshot"`
	Decor   map[string]string `json:"decorations"`
}

func parseLine(t *testing.T, s string) logLine {
	t.Helper()
	var l logLine
	if err := json.Unmarshal([]byte(s), &l); err != nil {
		t.Fatalf("log line %q: %v", s, err)
	}
	return l
}

const scheduleConfig = `{
  "schedule": {
    "diff": {"query": "SELECT name, n FROM host_rows", "interval": 600},
    "snap": {"query": "SELECT count(*) AS total FROM host_rows", "interval": 600, "snapshot": true}
  },
  "decorators": {"always": ["SELECT 'yes' AS decorated"]},
  "options": {"logger_numerics": true, "database_path": "/nowhere", "interval": "7"}
}`

func TestScheduleThroughExtension(t *testing.T) {
	ctx := testContext(t)
	fake := osquerydtest.Start(t, osquerydtest.WithScript(osquerydtest.Script{}))
	dir, h := root(t), newHost(t)
	h.config = map[string]string{"main": scheduleConfig}
	h.rows = []map[string]string{{"name": "a", "n": "1"}, {"name": "b", "n": "2"}}
	r := start(t, fake, dir, hostFlags()...)
	h.connect(dir)
	w := r.ready(ctx)

	if err := w.RunSchedule(ctx, "diff"); err != nil {
		t.Fatal(err)
	}
	first, second := parseLine(t, h.nextLog(ctx)), parseLine(t, h.nextLog(ctx))
	if first.Counter != 0 || first.Action != "added" || first.Columns["name"] != "a" || second.Columns["name"] != "b" {
		t.Errorf("the first set is %+v, %+v", first, second)
	}
	if first.Decor["decorated"] != "yes" {
		t.Errorf("decorations are %v", first.Decor)
	}

	h.set(func() { h.rows = []map[string]string{{"name": "b", "n": "2"}, {"name": "c", "n": "3"}} })
	if err := w.RunSchedule(ctx, "diff"); err != nil {
		t.Fatal(err)
	}
	first, second = parseLine(t, h.nextLog(ctx)), parseLine(t, h.nextLog(ctx))
	if first.Counter != 1 || first.Action != "removed" || first.Columns["name"] != "a" || second.Action != "added" ||
		second.Columns["name"] != "c" {
		t.Errorf("the difference is %+v, %+v", first, second)
	}
	if err := w.RunSchedule(ctx, "diff", "snap"); err != nil {
		t.Fatal(err)
	}
	if l := parseLine(t, h.nextLog(ctx)); l.Action != "snapshot" || len(l.Rows) != 1 || l.Rows[0]["total"] != 2.0 {
		t.Errorf("the snapshot is %+v", l)
	}
	h.noLog() // nothing had changed for diff

	c := r.client()
	flag := func(name string) string {
		row, err := c.QueryRow("SELECT value FROM osquery_flags WHERE name = '" + name + "'")
		if err != nil {
			t.Fatal(err)
		}
		return row["value"]
	}
	if flag("logger_numerics") != "true" || flag("database_path") == "/nowhere" || flag("extensions_interval") != "7" {
		t.Error("options: an option must apply, a CLI flag must not, an alias must slip through")
	}
	r.wantStderr("The CLI only flag --database_path set via config file will be ignored")
}

func TestTableConstraintsReachExtension(t *testing.T) {
	ctx := testContext(t)
	fake := osquerydtest.Start(t)
	dir, h := root(t), newHost(t)
	r := start(t, fake, dir, hostFlags()...)
	h.connect(dir)
	r.ready(ctx)
	row, err := r.client().QueryRow("select n, name from host_rows where name = 'asked'")
	if err != nil || row["name"] != "asked" || row["n"] != "1" {
		t.Errorf("row %v, error %v", row, err)
	}
}

func TestRefusedLogIsCatastrophic(t *testing.T) {
	ctx := testContext(t)
	for _, watchdog := range []string{"--disable_watchdog=false", "--disable_watchdog"} {
		fake := osquerydtest.Start(t, osquerydtest.WithScript(fast))
		dir, h := root(t), newHost(t)
		h.logErr = errRefused
		r := start(t, fake, dir, hostFlags(watchdog)...)
		h.connect(dir)
		if err := r.ready(ctx).Emit(ctx, "line"); err == nil {
			t.Error("Emit: no error although the logger refused")
		}
		if code := r.code(ctx); code != 78 {
			t.Errorf("exit code %d, want 78", code)
		}
		r.wantStderr("Error logging the results of query: emit: ")
		if strings.HasSuffix(watchdog, "false") {
			r.wantStderr("Worker returned exit status")
		}
	}
}

func TestDistributed(t *testing.T) {
	ctx := testContext(t)
	fake := osquerydtest.Start(t)
	dir, h := root(t), newHost(t)
	h.queries = &distributed.GetQueriesResult{
		Queries:   map[string]string{"good": "SELECT 1 AS one", "bad": "SELECT * FROM nothing", "undiscovered": "SELECT 2"},
		Discovery: map[string]string{"undiscovered": "SELECT * FROM time WHERE year = 1"},
	}
	r := start(t, fake, dir, hostFlags("--disable_distributed=false", "--distributed_plugin=host", "--distributed_interval=3600")...)
	h.connect(dir)
	w := r.ready(ctx)
	check := func(results []distributed.Result) {
		t.Helper()
		slices.SortFunc(results, func(a, b distributed.Result) int { return strings.Compare(a.QueryName, b.QueryName) })
		if len(results) != 2 || results[0].Status != 1 || results[0].Message != "no such table: nothing" ||
			results[1].QueryName != "good" || results[1].Rows[0]["one"] != "1" {
			t.Errorf("results %+v", results)
		}
	}
	check(<-h.results) // the poll of the start
	if err := w.RunDistributed(ctx); err != nil {
		t.Fatal(err)
	}
	check(<-h.results)

	h.set(func() { h.queries.Discovery["undiscovered"] = "SELECT * FROM nothing" })
	if err := w.RunDistributed(ctx); err == nil {
		t.Error("a failing discovery query: no error")
	}
	select {
	case got := <-h.results:
		t.Errorf("a failing discovery query must drop the batch, got %+v", got)
	default:
	}
}

func TestExtensionGoesAway(t *testing.T) {
	ctx := testContext(t)
	fake := osquerydtest.Start(t, osquerydtest.WithScript(fast))
	dir, h := root(t), newHost(t)
	r := start(t, fake, dir, hostFlags()...)
	h.connect(dir)
	w := r.ready(ctx)
	// The first check would wait extensions_timeout for a latent extension.
	waitStats(ctx, t, w, func(s osquerydtest.Stats) bool { return s.Checks > 0 })
	h.vanish(dir)
	waitStats(ctx, t, w, func(s osquerydtest.Stats) bool { return s.GoneAway == 1 })
	r.wantStderr("has gone away")
	_, err := r.client().QueryRows("SELECT * FROM host_rows")
	if err == nil || !strings.Contains(err.Error(), "vtable constructor failed: host_rows") {
		t.Errorf("query of a lost table: %v", err)
	}
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := r.code(ctx); code != 0 {
		t.Errorf("exit code %d", code)
	}
}
