package instance

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/osqvisor/osqvisor/internal/emit"
	"github.com/osqvisor/osqvisor/internal/glog"
	"github.com/osqvisor/osqvisor/stats"
)

// heard gives the events that lines of osqueryd's lead to.
func heard(t testing.TB, o *options, lines ...string) (*stderrParser, []stats.Event) {
	t.Helper()
	var got []stats.Event
	in := &Instance{o: o, log: slog.New(slog.DiscardHandler)}
	in.emitter = emit.New(observerFunc(func(e stats.Event) { got = append(got, e) }))
	w := newStderrParser(in, in.log, glog.NewTail(10, 1<<10))
	w.watcher = func(thread uint64) bool { return thread == 42 }
	for _, line := range lines {
		w.parse([]byte(line))
	}
	return w, got
}

type observerFunc func(stats.Event)

func (f observerFunc) Observe(_ context.Context, e stats.Event) { f(e) }

func TestWordsBecomeEvents(t *testing.T) {
	const stop = "W1121 02:00:00.000000  42 watcher.cpp:415] osqueryd worker (77) stopping: "
	const database = "W1121 02:00:00.000000  42 rocksdb.cpp:288] "
	tests := map[string]struct {
		line string
		want stats.Event
	}{
		"memory": {
			stop + "Memory limits exceeded: 220200960 bytes (limit is 200MB)",
			stats.WatchdogKilled{
				Resource: "memory", Used: 220200960, Limit: 200 << 20,
				Message: "Memory limits exceeded: 220200960 bytes (limit is 200MB)",
			},
		},
		"memory before 5.10": {
			stop + "Memory limits exceeded: 220200960",
			stats.WatchdogKilled{Resource: "memory", Used: 220200960, Message: "Memory limits exceeded: 220200960"},
		},
		"cpu": {
			stop + "Maximum sustainable CPU utilization limit 1200ms exceeded for 12 seconds",
			stats.WatchdogKilled{
				Resource: "cpu", Limit: 1200,
				Message: "Maximum sustainable CPU utilization limit 1200ms exceeded for 12 seconds",
			},
		},
		"cpu before 5.10": {
			stop + "Maximum sustainable CPU utilization limit exceeded: 12",
			stats.WatchdogKilled{Resource: "cpu", Message: "Maximum sustainable CPU utilization limit exceeded: 12"},
		},
		"process gone": {stop + "Cannot find process", stats.WatchdogKilled{Resource: "other", Message: "Cannot find process"}},
		"another worker": {
			"W1121 02:00:00.000000  42 watcher.cpp:415] osqueryd worker (78) stopping: Cannot find process", nil,
		},
		"not glog":     {"osqueryd worker (77) stopping: Memory limits exceeded: 1 bytes (limit is 2MB)", nil},
		"another file": {database + "osqueryd worker (77) stopping: Cannot find process", nil},
		"another thread": {
			"W1121 02:00:00.000000  43 watcher.cpp:415] osqueryd worker (77) stopping: Cannot find process", nil,
		},
		"corrupt": {database + corruptText, stats.DatabaseReplaced{}},
		"backup":  {database + "Backing up RocksDB database: /var/x.db.backup", nil},
		"nothing": {"I1121 02:00:00.000000  42 config.cpp:1] Refreshing configuration state", nil},
		"no line": {"", nil},
		"huge number": {
			stop + "Memory limits exceeded: 99999999999999999999999",
			stats.WatchdogKilled{Resource: "memory", Message: "Memory limits exceeded: 99999999999999999999999"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w, got := heard(t, defaults("a"), tt.line)
			if e, ok := w.stopOf(77); ok {
				got = append(got, e)
			}
			var want []stats.Event
			if tt.want != nil {
				want = []stats.Event{tt.want}
			}
			if diff := cmp.Diff(want, got, cmpopts.IgnoreTypes(stats.Head{})); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
			if _, ok := w.stopOf(77); ok {
				t.Error("it is announced twice")
			}
		})
	}
}

func TestSuspectsAreNamedOnce(t *testing.T) {
	const head = "W1121 02:00:00.000000  42 config.cpp:1] "
	w, _ := heard(t, defaults("a"),
		head+"Scheduled query may have failed: pack_it_usb devices", head+"scheduled query may have failed: old",
		head+"Scheduled query may have failed: old", head+"Skipping execution of denied scheduled query: x",
		"W1121 02:00:00.000000  42 scheduler.cpp:1] Scheduled query may have failed: forged",
		"Scheduled query may have failed: forged too")
	if diff := cmp.Diff([]string{"pack_it_usb devices", "old"}, w.takeSuspects()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if s := w.takeSuspects(); s != nil {
		t.Errorf("they are still there: %q", s)
	}
}

func TestBackupOfACorruptDatabaseIsNamedOnce(t *testing.T) {
	const head = "W1121 02:00:00.000000  42 rocksdb.cpp:288] "
	_, got := heard(t, defaults("a"),
		head+"Backing up RocksDB database: /v/osquery.db.backup", head+corruptText, head+corruptText)
	want := []stats.Event{stats.DatabaseReplaced{Backup: "/v/osquery.db.backup"}, stats.DatabaseReplaced{}}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreTypes(stats.Head{})); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

// telling is every line of osqueryd's that tells why it ended, as osqueryd writes it.
//
//nolint:lll // each line is one of osqueryd's
func telling() map[string]stats.Cause {
	const shutdown = "E1121 02:00:00.000000  42 shutdown.cpp:86] "
	const rocksdb, database = "I1121 02:00:00.000000  42 rocksdb.cpp:181] ", "W1121 02:00:00.000000  42 rocksdb.cpp:288] "
	const start = "E1121 02:00:00.000000  42 init.cpp:708] "
	return map[string]stats.Cause{
		"ERROR: unknown command line flag 'nosuchflag'":                                      stats.CauseFlagRefused,
		"ERROR: illegal value 'xyz' specified for uint64 flag 'schedule_timeout'":            stats.CauseFlagRefused,
		"ERROR: flag 'schedule_timeout' is missing its argument; flag description: x":        stats.CauseFlagRefused,
		"ERROR: failed validation of new value 'x' for flag 'y'":                             stats.CauseFlagRefused,
		"osqueryd: error while loading shared libraries: libfoo.so.1: cannot open":           stats.CauseBinaryUnusable,
		shutdown + "osqueryd has unsafe permissions: /tmp/osqueryd":                          stats.CauseBinaryUnusable,
		shutdown + "[Ref #1382] osqueryd has unsafe permissions: /tmp/osqueryd":              stats.CauseBinaryUnusable,
		start + "osqueryd Pidfile check failed: Pidfile::Error::Busy":                        stats.CausePidfileBusy,
		shutdown + "IO error: While lock file: /x/db/LOCK: Resource temporarily unavailable": stats.CauseDatabaseLocked,
		rocksdb + "Rocksdb open failed (5:0) IO error: While lock file: x":                   stats.CauseDatabaseLocked,
		rocksdb + "Rocksdb open failed (2:0) Corruption: x":                                  stats.CauseDatabaseCorrupt,
		database + corruptText: stats.CauseDatabaseCorrupt,
		rocksdb + "Rocksdb open failed (5:4) IO error: No space left on device: While appending":                                               stats.CauseResources,
		shutdown + "IO error: No space left on device: While appending":                                                                        stats.CauseResources,
		shutdown + "IO error: While open a file: /x: Too many open files":                                                                      stats.CauseResources,
		"E1121 02:00:00.000000  42 watcher.cpp:714] osqueryd could not create a worker process":                                                stats.CauseResources,
		shutdown + "Cannot activate osqvisor config plugin: Unknown registry plugin: osqvisor":                                                 stats.CausePluginMissing,
		shutdown + "Too many worker restarts":                                                                                                  stats.CauseCrashLoop,
		"terminate called after throwing an instance of 'std::bad_alloc'":                                                                      stats.CauseOutOfMemory,
		start + "An error occurred during extension manager startup: Extension socket directory missing: /x":                                   stats.CauseNoSocket,
		"W1121 02:00:00.000000  42 interface.cpp:303] Extensions disabled: cannot start extension manager (/x) ( Unix Domain socket too long)": stats.CauseNoSocket,
	}
}

// untelling are lines of osqueryd's that tell nothing of its end.
func untelling() []string {
	const warn, fail = "W1121 02:00:00.000000  42 ", "E1121 02:00:00.000000  42 "
	return []string{
		warn + "extensions.cpp:775] Required extension not found or not loaded: osqvisor",
		warn + "watcher.cpp:666] osqueryd worker respawning too quickly: 1 times",
		fail + "shutdown.cpp:86] Worker returned exit status",
		warn + "watcher.cpp:463] osqueryd worker (1) could not be stopped. Sending kill signal.",
		fail + "shutdown.cpp:86] Cannot activate filesystem numeric_monitoring plugin: Could not create file: /x",
		"I1121 02:00:00.000000  42 rocksdb.cpp:181] Rocksdb open failed (5:0) IO error: While mkdir: /x: Permission denied",
		"I1121 02:00:00.000000  42 interface.cpp:100] Registering extension (osqvisor, 1, version=1, sdk=)",
	}
}

func TestCauses(t *testing.T) {
	tests := telling()
	for _, line := range untelling() {
		tests[line] = stats.CauseUnknown
	}
	for line, want := range tests {
		w, _ := heard(t, defaults("a"), "I1121 02:00:00.000000  42 x.cpp:1] hello", line, "bye")
		got, said := w.cause()
		if got != want || want != stats.CauseUnknown && said != line {
			t.Errorf("%q: cause %q by %q, want %q", line, got, said, want)
		}
		if want.Hint() == "" {
			t.Errorf("cause %q has no hint", want)
		}
	}
}

// What is more telling wins, in whatever order it was said; what osqueryd got over
// counts no more; and a flood of other lines does not wash it away.
func TestCauseOfManyLines(t *testing.T) {
	const locked = "I1121 02:00:00.000000  42 rocksdb.cpp:181] Rocksdb open failed (5:0) While lock file x"
	const plugin = "E1121 02:00:00.000000  42 shutdown.cpp:86] Cannot activate osqvisor config plugin: x"
	for _, lines := range [][]string{{locked, plugin}, {plugin, locked}} {
		w, _ := heard(t, defaults("a"), lines...)
		for range 100 {
			w.parse([]byte("flood"))
		}
		if got, _ := w.cause(); got != stats.CauseDatabaseLocked {
			t.Errorf("%q: cause %q", lines, got)
		}
		w.reset()
		if got, _ := w.cause(); got != stats.CauseUnknown {
			t.Errorf("%q: cause %q after ready", lines, got)
		}
	}
}

// A query's name may hold newlines, and so whole lines in osqueryd's own form. From the
// moment that osqueryd has a name it is not believed, and it has one when it asked for its
// config or prints what it died in.
func TestTrial12ForgedLinesDecideNothing(t *testing.T) {
	const denied = "W1121 02:00:00.000000  42 config.cpp:363] Scheduled query may have failed: find\n"
	for line := range telling() {
		w, _ := heard(t, defaults("a"))
		w.distrust()
		w.parse([]byte(line))
		if got, said := w.cause(); got != stats.CauseUnknown || said != "" {
			t.Errorf("%q decides %q after a config was asked for", line, got)
		}
		w, _ = heard(t, defaults("a"), append(strings.Split(denied, "\n"), line)...)
		if got, _ := w.cause(); got != stats.CauseUnknown {
			t.Errorf("%q decides %q after the name of a query that failed", line, got)
		}
	}
}

// A forged line about the database is believed when the database was moved.
func TestTrial12ForgedReplacementIsLookedAt(t *testing.T) {
	const line = "W1121 02:00:00.000000  42 rocksdb.cpp:288] " + corruptText
	w, _ := heard(t, defaults("a"))
	w.distrust()
	w.in.paths.database = filepath.Join(t.TempDir(), "db")
	var got []stats.Event
	w.in.emitter = emit.New(observerFunc(func(e stats.Event) { got = append(got, e) }))
	w.parse([]byte(line))
	if len(got) != 0 {
		t.Errorf("a forged line became %v", got)
	}
	if err := os.Mkdir(w.in.backupPath(), 0o700); err != nil {
		t.Fatal(err)
	}
	w.parse([]byte(line))
	w.parse([]byte(line))
	if len(got) != 1 {
		t.Errorf("the database was replaced once, and %d events say so", len(got))
	}
}

// FuzzTrial12 has names and SQL that a server chose stand wherever osqueryd prints them.
func FuzzTrial12(f *testing.F) {
	for line := range telling() {
		f.Add("find unsafe permissions", line)
		f.Add("x\n"+line, "select 1 --\n"+line+"\n"+line)
	}
	f.Fuzz(func(t *testing.T, name, sql string) {
		w, got := heard(t, defaults("a"))
		w.in.paths.database = "/nowhere/db"
		say := func(text string) {
			for line := range strings.SplitSeq(text, "\n") {
				w.parse([]byte(line))
			}
		}
		say("W1121 02:00:00.000000  42 config.cpp:363] Scheduled query may have failed: " + name)
		w.distrust()
		for _, text := range []string{
			"I1121 02:00:00.000000  42 scheduler.cpp:122] Executing scheduled query " + name,
			"I1121 02:00:00.000000  42 query.cpp:119] Storing initial results for new scheduled query: " + name,
			"E1121 02:00:00.000000  42 scheduler.cpp:128] Error executing scheduled query " + name + ": near \"" + sql + "\": syntax error",
			"I1121 02:00:00.000000  42 distributed.cpp:176] Executing distributed query: " + name + ": " + sql,
			"E1121 02:00:00.000000  42 config.cpp:968] updateSource failed to parse config, of source: " + name + " and content: " + sql,
			"W1121 02:00:00.000000  42 virtual_table.cpp:1] " + sql,
		} {
			say(text)
		}
		if cause, line := w.cause(); cause != stats.CauseUnknown || line != "" || len(got) != 0 || w.quick != 0 {
			t.Errorf("cause %q by %q, events %v, %d quick deaths", cause, line, got, w.quick)
		}
	})
}
