package instance

import (
	"context"
	"log/slog"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/osqvisor/osqvisor/internal/emit"
	"github.com/osqvisor/osqvisor/internal/glog"
	"github.com/osqvisor/osqvisor/stats"
)

// heard gives the events that lines of osqueryd's lead to.
func heard(t *testing.T, o *options, version string, lines ...string) (*words, []stats.Event) {
	t.Helper()
	var got []stats.Event
	in := &Instance{o: o, log: slog.New(slog.DiscardHandler), binary: Binary{Version: version}}
	in.emitter = emit.New(context.Background(), 0, observerFunc(func(e stats.Event) { got = append(got, e) }))
	w := newWords(in, in.log, glog.NewTail(10, 1<<10))
	for _, line := range lines {
		w.take([]byte(line))
	}
	return w, got
}

type observerFunc func(stats.Event)

func (f observerFunc) Observe(_ context.Context, e stats.Event) { f(e) }

func TestWordsBecomeEvents(t *testing.T) {
	const stop = "W1121 02:00:00.000000  42 watcher.cpp:415] osqueryd worker (77) stopping: "
	const lost = "W1121 02:00:00.000000  42 config.cpp:1] "
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
		"not glog": {
			"osqueryd worker (77) stopping: Memory limits exceeded: 1 bytes (limit is 2MB)",
			stats.WatchdogKilled{Resource: "memory", Used: 1, Limit: 2 << 20, Message: "Memory limits exceeded: 1 bytes (limit is 2MB)"},
		},
		"denylisted": {lost + "Scheduled query may have failed: pack_it_usb devices", stats.QueryDenylisted{Query: "pack_it_usb devices"}},
		"corrupt":    {lost + "Destroying RocksDB database due to corruption", stats.DatabaseReplaced{}},
		"backup":     {lost + "Backing up RocksDB database: /var/x.db.backup", nil},
		"said again": {lost + "Skipping execution of denied scheduled query: x", nil},
		"nothing":    {lost + "Refreshing configuration state", nil},
		"no line":    {"", nil},
		"huge number": {
			stop + "Memory limits exceeded: 99999999999999999999999",
			stats.WatchdogKilled{Resource: "memory", Message: "Memory limits exceeded: 99999999999999999999999"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, got := heard(t, defaults("a"), "5.23.0", tt.line)
			var want []stats.Event
			if tt.want != nil {
				want = []stats.Event{tt.want}
			}
			if diff := cmp.Diff(want, got, cmpopts.IgnoreTypes(stats.Head{})); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
		})
	}
}

func TestBackupOfACorruptDatabaseIsNamedOnce(t *testing.T) {
	const head = "W1121 02:00:00.000000  42 rocksdb.cpp:288] "
	_, got := heard(t, defaults("a"), "5.23.0",
		head+"Backing up RocksDB database: /v/osquery.db.backup", head+"Destroying RocksDB database due to corruption",
		head+"Destroying RocksDB database due to corruption")
	want := []stats.Event{stats.DatabaseReplaced{Backup: "/v/osquery.db.backup"}, stats.DatabaseReplaced{}}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreTypes(stats.Head{})); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

// Without its watchdog osqueryd bars no query since 5.16, though it says the same.
func TestDenylistNeedsTheWatchdog(t *testing.T) {
	o := defaults("a")
	o.watchdog.Disabled = true
	const line = "Scheduled query may have failed: q"
	if _, got := heard(t, o, "5.16.0", line); len(got) != 0 {
		t.Errorf("5.16 without a watchdog: %v", got)
	}
	if _, got := heard(t, o, "5.15.0", line); len(got) != 1 {
		t.Errorf("5.15 without a watchdog: %v, want one event", got)
	}
}

// Every text of osqueryd's that tells why it ended, with glog's head where it has one.
func TestCauses(t *testing.T) {
	tests := map[string]stats.Cause{
		"ERROR: unknown command line flag 'nosuchflag'":                                                stats.CauseFlagRefused,
		"ERROR: illegal value 'xyz' specified for uint64 flag 'schedule_timeout'":                      stats.CauseFlagRefused,
		"ERROR: flag 'schedule_timeout' is missing its argument; flag description: x":                  stats.CauseFlagRefused,
		"ERROR: failed validation of new value 'x' for flag 'y'":                                       stats.CauseFlagRefused,
		"osqueryd: error while loading shared libraries: libfoo.so.1: cannot open":                     stats.CauseBinaryUnusable,
		"E1 osqueryd has unsafe permissions: /tmp/osqueryd":                                            stats.CauseBinaryUnusable,
		"osqueryd Pidfile check failed: Pidfile::Error::Busy":                                          stats.CausePidfileBusy,
		"IO error: While lock file: /x/osquery.db/LOCK: Resource temporarily unavailable":              stats.CauseDatabaseLocked,
		"Rocksdb open failed (5:0) IO error: While lock file: x":                                       stats.CauseDatabaseLocked,
		"Rocksdb open failed (2:0) Corruption: x":                                                      stats.CauseDatabaseCorrupt,
		"Destroying RocksDB database due to corruption":                                                stats.CauseDatabaseCorrupt,
		"Could not write: No space left on device":                                                     stats.CauseDirectory,
		"Error logging the results of query: q: Extension socket not available: /x":                    stats.CauseLoggerFailed,
		"Cannot activate osqvisor logger plugin: Unknown registry plugin: osqvisor":                    stats.CausePluginMissing,
		"Cannot activate osqvisor config plugin: Unknown registry plugin: osqvisor":                    stats.CausePluginMissing,
		"Too many worker restarts":                                                                     stats.CauseCrashLoop,
		"terminate called after throwing an instance of 'std::bad_alloc'":                              stats.CauseOutOfMemory,
		"Extension socket directory missing: /x":                                                       stats.CauseNoSocket,
		"Extensions disabled: cannot start extension manager (/x) ( Unix Domain socket path too long)": stats.CauseNoSocket,
		"Required extension not found or not loaded: osqvisor":                                         stats.CauseUnknown,
		"osqueryd worker respawning too quickly: 1 times":                                              stats.CauseUnknown,
		"updateSource failed to parse config, of source: a and content: x":                             stats.CauseUnknown,
		"Worker returned exit status":                                                                  stats.CauseUnknown,
		"osqueryd worker (1) could not be stopped. Sending kill signal.":                               stats.CauseUnknown,
		"Registering extension (osqvisor, 1, version=1, sdk=)":                                         stats.CauseUnknown,
	}
	for line, want := range tests {
		for _, head := range []string{"", "E1121 02:00:00.000000  42 x.cpp:1] "} {
			w, _ := heard(t, defaults("a"), "5.23.0", "I1121 02:00:00.000000  42 x.cpp:1] hello", head+line, "bye")
			if got := w.cause(); got != want {
				t.Errorf("%q: cause %q, want %q", head+line, got, want)
			}
			if hint(want) == "" {
				t.Errorf("cause %q has no hint", want)
			}
		}
	}
}

// What is more telling wins, in whatever order it was said; what osqueryd got over
// counts no more; and a flood of other lines does not wash it away.
func TestCauseOfManyLines(t *testing.T) {
	const locked, plugin = "Rocksdb open failed (5:0) x", "Cannot activate osqvisor config plugin: x"
	for _, lines := range [][]string{{locked, plugin}, {plugin, locked}} {
		w, _ := heard(t, defaults("a"), "5.23.0", lines...)
		for range 100 {
			w.take([]byte("flood"))
		}
		if got := w.cause(); got != stats.CauseDatabaseLocked {
			t.Errorf("%q: cause %q", lines, got)
		}
		if w.ready(); w.cause() != stats.CauseUnknown {
			t.Errorf("%q: cause %q after ready", lines, w.cause())
		}
	}
}
