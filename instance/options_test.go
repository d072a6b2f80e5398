package instance_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/instance/osquerydtest"
	"github.com/osqvisor/osqvisor/internal/osqueryflags"
	"github.com/osqvisor/osqvisor/stats"
)

// refused makes an instance that must not come to be, and gives its mistakes.
func refused(t *testing.T, id string, opts ...instance.Option) string {
	t.Helper()
	in, err := instance.New(id, opts...)
	if err == nil {
		_ = in.Close(patient(t))
		t.Fatal("New took it")
	}
	var mistake *instance.OptionError
	if !errors.As(err, &mistake) || mistake.Option == "" || mistake.Unwrap() == nil {
		t.Errorf("no OptionError in: %v", err)
	}
	return err.Error()
}

func wantTexts(t *testing.T, got string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if !strings.Contains(got, text) {
			t.Errorf("%q is not in:\n%s", text, got)
		}
	}
}

func TestBadOptions(t *testing.T) {
	t.Parallel()
	fake := osquerydtest.Start(t)
	base := root(t)
	good := []instance.Option{instance.WithBinary(fake.Path()), instance.WithRoot(base)}
	file := filepath.Join(base, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		id   string
		opts []instance.Option
		want []string
	}{
		"empty id":     {"", nil, []string{"id: ", "empty"}},
		"long id":      {strings.Repeat("a", 65), nil, []string{"id: ", "65 bytes", "at most 64"}},
		"path as id":   {"../x", nil, []string{"id: ", "'/'"}},
		"dots as id":   {"..", nil, []string{"id: ", "must begin and end"}},
		"device as id": {"con.x", nil, []string{"id: ", "device on Windows"}},

		"no root":             {"a", []instance.Option{instance.WithRoot("")}, []string{"WithRoot: the directory is empty"}},
		"relative root":       {"a", []instance.Option{instance.WithRoot("x/y")}, []string{`WithRoot: "x/y" is relative`}},
		"root is a file":      {"a", []instance.Option{instance.WithRoot(file)}, []string{"WithRoot: " + file, "not a directory"}},
		"relative directory":  {"a", []instance.Option{instance.WithDirectory("x")}, []string{`WithDirectory: "x" is relative`}},
		"directory is a file": {"a", []instance.Option{instance.WithDirectory(file)}, []string{"WithDirectory: " + file, "not a directory"}},

		"no binary":       {"a", []instance.Option{instance.WithBinary("")}, []string{"WithBinary: ", "the path is empty"}},
		"relative binary": {"a", []instance.Option{instance.WithBinary("osqueryd")}, []string{"WithBinary: ", "relative"}},

		"nil option":    {"a", []instance.Option{nil}, []string{"option 2 is nil"}},
		"nil transport": {"a", []instance.Option{instance.WithTransport(nil)}, []string{"WithTransport: the transport is nil"}},
		"nil logger":    {"a", []instance.Option{instance.WithLogger(nil)}, []string{"WithLogger: the logger is nil"}},
		"nil observer":  {"a", []instance.Option{instance.WithObserver(nil)}, []string{"WithObserver: the observer is nil"}},
		"nil table":     {"a", []instance.Option{instance.WithTables(nil)}, []string{"WithTables"}},

		"fraction of a second": {"a", []instance.Option{instance.WithConfig(extension.Config{Refresh: 1500 * time.Millisecond})}, []string{"WithConfig: Refresh: 1.5s is not a whole number of seconds"}},
		"long delay":           {"a", []instance.Option{instance.WithHealth(instance.Health{Delay: 25 * time.Hour})}, []string{"WithHealth: Delay: 25h0m0s is out of range"}},
		"no failures":          {"a", []instance.Option{instance.WithHealth(instance.Health{Failures: -1})}, []string{"WithHealth: Failures: -1 is out of range"}},
		"history":              {"a", []instance.Option{instance.WithDiagnostics(instance.Diagnostics{History: 1001})}, []string{"WithDiagnostics: History: 1001 is out of range"}},
		"stderr":               {"a", []instance.Option{instance.WithDiagnostics(instance.Diagnostics{StderrLines: -1})}, []string{"WithDiagnostics: StderrLines: -1 is out of range"}},
		"memory":               {"a", []instance.Option{instance.WithWatchdog(instance.Watchdog{MemoryMB: -1})}, []string{"WithWatchdog: MemoryMB: -1 is out of range"}},
		"limits of nothing":    {"a", []instance.Option{instance.WithWatchdog(instance.Watchdog{Disabled: true, CPUPercent: 5})}, []string{"WithWatchdog: Disabled"}},
		"environment":          {"a", []instance.Option{instance.WithEnv("OSQUERY_WORKER=1", "x")}, []string{"WithEnv: OSQUERY_WORKER", `WithEnv: "x" is not of the form`}},

		"relative socket": {"a", []instance.Option{instance.WithSocket("x")}, []string{`WithSocket: "x" is relative`}},
		"long socket":     {"a", []instance.Option{instance.WithSocket(filepath.Join(base, strings.Repeat("s", 98)))}, []string{"WithSocket: ", "at most 97"}},
		"open socket":     {"a", []instance.Option{instance.WithSocket("/usr/lib/s")}, []string{"WithSocket: ", "open to other users"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			wantTexts(t, refused(t, tt.id, append(append([]instance.Option{}, good...), tt.opts...)...), tt.want...)
		})
	}
}

func TestDurationsOutOfRange(t *testing.T) {
	t.Parallel()
	fake := osquerydtest.Start(t)
	const long = 1000 * time.Hour
	wantTexts(t, refused(t, "a", instance.WithBinary(fake.Path()), instance.WithRoot(root(t)),
		instance.WithDistributed(extension.Distributed{Interval: long}), instance.WithConfig(extension.Config{Refresh: 200 * time.Hour}),
		instance.WithTimeouts(instance.Timeouts{
			Start: -1, Replace: long, Register: -1, Extensions: time.Millisecond, Stop: long, Binary: -1, Disk: long, Observers: -1,
		}),
		instance.WithHealth(instance.Health{Interval: -1, Timeout: -1, Failures: 1001}),
		instance.WithQueries(instance.Queries{Timeout: -1, MaxBytes: 1000, AbandonedWait: long}),
	), "WithDistributed: Interval: 1000h0m0s is out of range; it must be from 0s to 24h0m0s", "WithConfig: Refresh: ",
		"WithTimeouts: Start: ", "WithTimeouts: Replace: ", "WithTimeouts: Register: ", "WithTimeouts: Extensions: ", "WithTimeouts: Stop: ",
		"WithTimeouts: Binary: ", "WithTimeouts: Disk: ", "WithTimeouts: Observers: ",
		"WithHealth: Interval: ", "WithHealth: Timeout: ", "WithHealth: Failures: ",
		"WithQueries: Timeout: ", "WithQueries: MaxBytes: 1000 is out of range; it must be from 65536 to 1073741824", "WithQueries: AbandonedWait: ")
}

// All mistakes come at once.
func TestAllMistakesAtOnce(t *testing.T) {
	t.Parallel()
	got := refused(t, "a/b", instance.WithBinary("/no/such/osqueryd"), instance.WithRoot("relative"), instance.WithTransport(nil),
		instance.WithFlag("pidfile", "x"), instance.WithTimeouts(instance.Timeouts{Start: -1}), instance.WithTables(nil), nil)
	wantTexts(t, got, "id: ", "WithBinary: ", "WithRoot: ", "WithTransport: ", "WithFlag: pidfile", "WithTimeouts: Start: ",
		"WithTables: table 1", "option 6 is nil")
}

func TestSDKFlagsAreRefused(t *testing.T) {
	t.Parallel()
	fake := osquerydtest.Start(t)
	opts := []instance.Option{instance.WithBinary(fake.Path()), instance.WithRoot(root(t))}
	var want []string
	for _, f := range osqueryflags.All() {
		if f.Owner != osqueryflags.SDK && f.Owner != osqueryflags.Nobody {
			continue
		}
		for _, name := range append([]string{f.Name}, f.Aliases...) {
			opts = append(opts, instance.WithFlag(name, "x"))
			want = append(want, "WithFlag: "+name+" ")
		}
	}
	for _, name := range []string{"pidfile", "database_path", "extensions_socket", "logger_plugin", "config_plugin", "D", "S", "force"} {
		if !strings.Contains(strings.Join(want, ""), "WithFlag: "+name+" ") {
			t.Errorf("%s may be set by the host", name)
		}
	}
	opts = append(opts, instance.WithFlag("--verbose", "true"), instance.WithFlag("", "x"), instance.WithFlag("a b", "x"),
		instance.WithFlag("pack_delimiter", ":"))
	want = append(want, `WithFlag: "--verbose": write the name without dashes`, "WithFlag: the name is empty", `WithFlag: "a b"`,
		"WithFlag: pack_delimiter: a colon")
	wantTexts(t, refused(t, "a", opts...), want...)
}

// What the command line has and who may set it is one table: a flag of the SDK's is passed,
// and what is passed is the SDK's, or a default that the host may change.
func TestTrial27CommandLineFollowsTheTable(t *testing.T) {
	t.Parallel()
	passed := instance.SDKFlags()
	for _, name := range passed {
		if f, known := osqueryflags.Lookup(name); !known || f.Name != name || f.Owner != osqueryflags.SDK && f.Owner != osqueryflags.Host {
			t.Errorf("%s is passed and stands in the table as %+v", name, f)
		}
	}
	for _, f := range osqueryflags.All() {
		if f.Owner == osqueryflags.SDK && !slices.Contains(passed, f.Name) {
			t.Errorf("%s is the SDK's and not passed", f.Name)
		}
	}
}

// What the host has on the command line stays, whatever a config says.
func TestTrial27ConfigLeavesTheHostsFlagsAlone(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, binary string) {
		server := extension.NewMemory()
		server.SetConfig("vendor", map[string]string{"main": `{
			"options": {"schedule_splay_percent": 11, "disable_events": true, "schedule_max_drift": 61},
			"schedule": {"q": {"query": "select 1 as one", "interval": 3600}}}`})
		r := start(t, binary, instance.WithTransport(server),
			instance.WithFlag("schedule_splay_percent", "50"), instance.WithFlag("disable_events", "false"))
		waitScheduled(t, r, "q")
		wantOptionsStripped(t, r, "disable_events", "schedule_splay_percent")
		wantFlags(t, r, map[string]string{"disable_events": "false", "schedule_max_drift": "61", "schedule_splay_percent": "50"})
	})
}

// A successor keeps as many runs as its own option says.
func TestTrial33HistoryOfASuccessor(t *testing.T) {
	t.Parallel()
	fake := osquerydtest.Start(t)
	base := []instance.Option{instance.WithBinary(fake.Path()), instance.WithRoot(root(t))}
	build := func(opts ...instance.Option) *instance.Instance {
		t.Helper()
		in, err := instance.New("a", append(slices.Clone(base), opts...)...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = in.Close(patient(t)) })
		return in
	}
	end := func(in *instance.Instance, n int) {
		for i := range n {
			h := stats.Head{Time: time.Now(), Instance: "a", Run: fmt.Sprintf("%p %d", in, i)}
			in.Record(patient(t), stats.RunStarting{Head: h})
			in.Record(patient(t), stats.RunEnded{Head: h, Cause: stats.CauseExit})
		}
	}
	first := build(instance.WithDiagnostics(instance.Diagnostics{History: 2}))
	end(first, 5)
	second := build(instance.WithDiagnostics(instance.Diagnostics{History: 4}), instance.WithPredecessor(first))
	end(second, 5)
	if n := len(second.Snapshot().History); n != 4 {
		t.Errorf("History: 4 keeps %d runs", n)
	}
	newest := second.Snapshot().History[0].ID
	third := build(instance.WithDiagnostics(instance.Diagnostics{History: 1}), instance.WithPredecessor(second))
	if h := third.Snapshot().History; len(h) != 1 || h[0].ID != newest {
		t.Errorf("History: 1 keeps %+v", h)
	}
	bad := append(base, instance.WithDiagnostics(instance.Diagnostics{History: 7}), instance.WithPredecessor(third),
		instance.WithFlag("S", ""))
	if _, err := instance.New("a", bad...); err == nil {
		t.Fatal("New took it")
	}
	if end(third, 3); len(third.Snapshot().History) != 1 {
		t.Error("a successor that did not come to be changed the history")
	}
}

// osqueryd knows some flags by several names, reads a dash as an underscore, and "no" before
// a name as its opposite: none of this is a way around.
func TestOtherNamesOfFlagsAreRefused(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, binary string) {
		names := []string{
			"socket", "timeout", "interval", "db_path", "config_tls_refresh", "config_tls_accelerated_refresh", "osquery_log_dir",
			"disable-watchdog", "allow-unsafe", "nodisable_extensions", "noallow_unsafe", "nodisable_carver", "nodisable-logging",
			"fromenv", "tryfromenv", "undefok", "helpfull",
		}
		opts := []instance.Option{instance.WithBinary(binary), instance.WithRoot(root(t))}
		var want []string
		for _, name := range names {
			opts = append(opts, instance.WithFlag(name, "1"))
			want = append(want, "WithFlag: "+name+" ")
		}
		wantTexts(t, refused(t, "a", opts...), want...)
	})
}

// Flags are tried on the binary itself, together with one that no osqueryd has, so
// that it reports its objections and exits before it starts anything.
func TestFlagsAreTriedOnTheBinary(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, binary string) {
		dir := root(t)
		got := refused(t, "a", instance.WithBinary(binary), instance.WithRoot(dir),
			instance.WithFlag("no_such_flag", "1"), instance.WithFlag("another_one", ""), instance.WithFlag("schedule_timeout", "xyz"),
			instance.WithFlag("verbose", "true"))
		wantTexts(t, got, "WithFlag: no_such_flag is not a flag of osqueryd 5.", "WithFlag: another_one is not a flag",
			"WithFlag: illegal value 'xyz'", "schedule_timeout")
		if strings.Contains(got, "verbose") || strings.Contains(got, "probe") {
			t.Errorf("a good flag, or the probe's own, is told of: %s", got)
		}
		in, err := instance.New("a", instance.WithBinary(binary), instance.WithRoot(dir),
			instance.WithFlag("verbose", "true"), instance.WithFlag("disable_tables", "users"))
		if err != nil {
			t.Fatalf("good flags are refused: %v", err)
		}
		if err := in.Close(patient(t)); err != nil {
			t.Error(err)
		}
		entries, err := os.ReadDir(filepath.Join(dir, "a"))
		if err != nil || len(entries) != 0 {
			t.Errorf("the checks left %v behind (%v)", entries, err)
		}
	})
}
