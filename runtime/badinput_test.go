package runtime_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/internal/testhelp"
	"github.com/osqvisor/osqvisor/runtime"
)

func wantAll(t *testing.T, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("it was accepted")
	}
	for _, w := range words {
		if n := strings.Count(err.Error(), w); n == 0 {
			t.Errorf("%q is not mentioned in:\n%v", w, err)
		}
	}
}

func TestNewReportsAllMistakesTogether(t *testing.T) {
	_, err := runtime.New(
		runtime.WithBinary("/nowhere/osqueryd"), runtime.WithRoot("relative"), nil,
		runtime.WithStarts(runtime.Starts{Limit: -3, Turn: -1}),
		runtime.WithRateAlarm(0, -time.Second),
		runtime.WithLogger(nil), runtime.WithObserver(nil), runtime.WithTransport(nil),
		runtime.WithRestart(runtime.RestartPolicy{Window: -1}),
		runtime.WithInstance("../etc"), runtime.WithInstance(strings.Repeat("x", 65)), runtime.WithInstance(""),
		runtime.WithInstance("twice"),
		runtime.WithInstance("twice", nil, instance.WithTimeouts(instance.Timeouts{Binary: -1}),
			instance.WithHealth(instance.Health{Failures: -1})),
	)
	wantAll(t, err, "WithBinary: ", "/nowhere/osqueryd", "WithRoot: ", `"relative" is relative`, "option 2 is nil",
		"WithStarts: a Limit of -3", "WithStarts: a Turn of -1ns", "WithRateAlarm: 0", "WithRateAlarm: the window of -1s",
		"WithLogger: ", "WithObserver: ", "WithTransport: ", "WithRestart: Window is -1ns",
		`"../etc" contains '/'`, "65 bytes long", "the id is empty")
	if n := strings.Count(err.Error(), "/nowhere/osqueryd"); n != 1 {
		t.Errorf("the missing binary is told %d times, want once:\n%v", n, err)
	}
	if n := strings.Count(err.Error(), `"relative" is relative`); n != 1 {
		t.Errorf("the relative root is told %d times, want once:\n%v", n, err)
	}
}

func TestNewReportsMistakesOfInstancesTogether(t *testing.T) {
	testhelp.CheckLeaks(t)
	root := testhelp.Root(t)
	_, err := runtime.New(
		runtime.WithBinary(fakeWith(t).path), runtime.WithRoot(root), runtime.WithStarts(runtime.Starts{Limit: -1}),
		runtime.WithInstance("a", instance.WithTimeouts(instance.Timeouts{Binary: -time.Second}), nil, instance.WithTransport(nil)),
		runtime.WithInstance("b", instance.WithFlag("database_path", "/x"), instance.WithFlag("no_such_flag", "1")),
		runtime.WithInstance("c"), runtime.WithInstance("c", instance.WithDiagnostics(instance.Diagnostics{History: 1})),
		runtime.WithInstance("d", instance.WithDirectory(filepath.Join(root, "c"))),
	)
	wantAll(t, err, "WithStarts: a Limit of -1", `instance "a"`, "WithTimeouts: Binary: -1s", "is nil", "WithTransport: ",
		`instance "b"`, "database_path", `instance "c": there is an instance of that id already`,
		`instance "d": another instance has that directory`, `it is instance "c"'s`)
	for _, want := range []error{runtime.ErrExists, runtime.ErrSharedDirectory} {
		if !errors.Is(err, want) {
			t.Errorf("errors.Is does not find %q", want)
		}
	}
}

func TestSharedPlacesAreRefused(t *testing.T) {
	h := newHost(t, fakeWith(t), runtime.WithInstance("vendor"))
	link, other := h.root+"-link", testhelp.Root(t)
	if err := os.Symlink(h.root, link); err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { _ = os.Remove(link) })
	if err := os.Symlink(filepath.Join(h.root, "vendor"), filepath.Join(other, "tenant")); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(h.root, "s")
	if err := h.Add("fixed", instance.WithSocket(socket)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		opt  instance.Option
		want error
	}{
		{"through a linked root", instance.WithDirectory(filepath.Join(link, "vendor")), runtime.ErrSharedDirectory},
		{"by a link in the root", instance.WithRoot(other), runtime.ErrSharedDirectory},
		{"the directory itself", instance.WithDirectory(filepath.Join(h.root, "vendor")), runtime.ErrSharedDirectory},
		{"the socket", instance.WithSocket(socket), runtime.ErrSharedSocket},
		{"a socket that osqueryd would delete", instance.WithSocket(socket + ".1"), runtime.ErrSharedSocket},
	} {
		if err := h.Add("tenant", c.opt); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	_, err := h.Update(testhelp.Context(t), "fixed", instance.WithDirectory(filepath.Join(h.root, "vendor")))
	if !errors.Is(err, runtime.ErrSharedDirectory) {
		t.Errorf("Update into another's directory: %v, want ErrSharedDirectory", err)
	}
	if err := h.Add("tenant"); err != nil { // refusals leave nothing behind
		t.Error(err)
	}
}

func TestNobodyIsNotFound(t *testing.T) {
	h := newHost(t, fakeWith(t))
	ctx := testhelp.Context(t)
	_, query := h.Query(ctx, "x", "select 1")
	_, snapshot := h.Snapshot("x")
	_, in := h.Instance("x")
	_, updated := h.Update(ctx, "x")
	for name, err := range map[string]error{
		"Query": query, "Snapshot": snapshot, "Instance": in, "Update": updated, "Purge": h.Purge(ctx, "x"), "Remove": h.Remove(ctx, "x"),
		"Restart": h.Restart(ctx, "x"), "Resume": h.Resume("x"), "WaitReady": h.WaitReady(ctx, "x"),
		"PushConfig": h.PushConfig(ctx, "x"), "SetTables": h.SetTables(ctx, "x"),
	} {
		if !errors.Is(err, runtime.ErrNotFound) || !strings.Contains(err.Error(), `"x"`) {
			t.Errorf("%s of nobody: %v, want ErrNotFound and the id", name, err)
		}
	}
}
