package runtime_test

import (
	"os"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"testing"
	"time"

	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/internal/testhelp"
	"github.com/osqvisor/osqvisor/runtime"
)

// A mistake of the Runner's must not hide one of an instance's by the same option, nor
// what stands beside it.
func TestNewHidesNoMistakeBehindTheRunners(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "own")
	_, err := runtime.New(
		runtime.WithBinary("/nowhere/osqueryd"), runtime.WithRoot("relative"), nil, runtime.WithTransport(nil),
		runtime.WithInstance("a", nil, instance.WithTransport(nil), instance.WithTimeouts(instance.Timeouts{Binary: -time.Second})),
		runtime.WithInstance("b", instance.WithBinary(missing), instance.WithRoot("elsewhere")),
		runtime.WithInstance("c"), runtime.WithInstance("c"), //nolint:gocritic // the second is the mistake
	)
	wantAll(t, err, "New: option 2 is nil", `instance "a": New: option 0 is nil`, "WithTimeouts: Binary: -1s",
		`instance "b"`, missing, `"elsewhere" is relative`, `instance "c": there is an instance of that id already`)
	for text, n := range map[string]int{
		"/nowhere/osqueryd": 1, `"relative" is relative`: 1, "WithTransport: ": 2, `instance "c"`: 1,
		"no path is given": 0, "no directory is given": 0,
	} {
		if got := strings.Count(err.Error(), text); got != n {
			t.Errorf("%q is told %d times, want %d:\n%v", text, got, n, err)
		}
	}
}

// A binary that hangs costs its timeout, and must not cost it once an instance.
func TestNewTriesABadBinaryOnce(t *testing.T) {
	if goruntime.GOOS == "windows" {
		t.Skip("there is no shell script for a binary")
	}
	dir := testhelp.Root(t)
	binary, calls := filepath.Join(dir, "osqueryd"), filepath.Join(dir, "calls")
	script := "#!/bin/sh\necho x >>" + calls + "\n"
	if err := os.WriteFile(binary, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := runtime.New(runtime.WithBinary(binary), runtime.WithRoot(filepath.Join(dir, "root")),
		runtime.WithInstance("a"), runtime.WithInstance("b"), runtime.WithInstance("c"))
	wantAll(t, err, "WithBinary: ", "printed no version")
	if n := strings.Count(err.Error(), "\n"); n > 0 {
		t.Errorf("one mistake is told %d times:\n%v", n+1, err)
	}
	if tried, err := os.ReadFile(calls); err != nil || string(tried) != "x\n" {
		t.Errorf("the binary was run %d times, %v; want once", strings.Count(string(tried), "x"), err)
	}
}

// The check of the Runner's binary has the time that its instances give it.
func TestBinaryTimeoutOfTheRunner(t *testing.T) {
	if goruntime.GOOS == "windows" {
		t.Skip("there is no shell script for a binary")
	}
	dir := testhelp.Root(t)
	binary := filepath.Join(dir, "osqueryd")
	if err := os.WriteFile(binary, []byte("#!/bin/sh\nexec sleep 60\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := runtime.New(runtime.WithBinary(binary), runtime.WithRoot(filepath.Join(dir, "root")),
		runtime.WithInstanceDefaults(instance.WithTimeouts(instance.Timeouts{Binary: 50 * time.Millisecond})))
	wantAll(t, err, "WithBinary: ", "within 50ms")
}
