package main

import (
	"bufio"
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"testing"

	"github.com/osqvisor/osqvisor/instance/osquerydtest"
)

// asProgram makes the test binary be the program.
const asProgram = "CUSTOMTRANSPORT_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	osquerydtest.Main()
	if os.Getenv(asProgram) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// newProgram is the example as a user starts it, with a temporary directory that it has
// to leave empty.
func newProgram(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	temporary, err := os.MkdirTemp("", "ct") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*bound)
	t.Cleanup(cancel)
	t.Cleanup(func() {
		if left, err := os.ReadDir(temporary); err != nil || len(left) > 0 {
			t.Errorf("left in the temporary directory: %v, %v", left, err)
		}
		_ = os.RemoveAll(temporary)
	})
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Env = append(os.Environ(), asProgram+"=1", "TMPDIR="+temporary, "TMP="+temporary)
	return cmd
}

func TestProgram(t *testing.T) {
	t.Parallel()
	t.Run("fake", func(t *testing.T) { testProgram(t) })
	if real := os.Getenv("OSQUERYD"); real != "" {
		t.Run("real", func(t *testing.T) { testProgram(t, "-osqueryd", real) })
	}
}

func testProgram(t *testing.T, args ...string) {
	t.Helper()
	out, err := newProgram(t, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{
		`vendor (tenant "VENDOR") fetches its config`, `tenant-a (tenant "TENANT-A") fetches its config`,
		"busy, not before a second", ": taken", "vendor answers where-is-vendor", "tenant-a answers where-is-tenant-a",
		"each instance got its own config",
	} {
		if !bytes.Contains(out, []byte(want)) {
			t.Errorf("%q is missing:\n%s", want, out)
		}
	}
}

func TestInterrupt(t *testing.T) {
	if goruntime.GOOS == "windows" {
		t.Skip("one process cannot press Ctrl-C for another")
	}
	t.Parallel()
	cmd := newProgram(t)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	sent := false
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if !sent && strings.Contains(lines.Text(), "fetches its config") {
			sent = true
			if err := cmd.Process.Signal(os.Interrupt); err != nil {
				t.Error(err)
			}
		}
	}
	_ = cmd.Wait() // the exit code says it
	if code := cmd.ProcessState.ExitCode(); code != 130 {
		t.Errorf("exit code %d, want 130", code)
	}
}

func TestMistakes(t *testing.T) {
	t.Parallel()
	missing := filepath.Join(t.TempDir(), "osqueryd")
	for name, test := range map[string]struct {
		args []string
		code int
		want string
	}{
		"an argument": {[]string{"vendor"}, 2, `unexpected argument "vendor"`},
		"no osqueryd": {[]string{"-osqueryd", missing}, 1, "WithBinary"},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := newProgram(t, test.args...)
			out, _ := cmd.CombinedOutput()
			if code := cmd.ProcessState.ExitCode(); code != test.code || !bytes.Contains(out, []byte(test.want)) {
				t.Errorf("exit code %d, want %d and %q:\n%s", code, test.code, test.want, out)
			}
		})
	}
}

// What the exit code rests on must notice what goes wrong.
func TestMissing(t *testing.T) {
	good := func() *client {
		return &client{
			tenant: "A", configs: 1, batches: map[string]int{"a/status/1-1": 2, "a/snapshots/1-1": 1},
			logs: []string{queryName("a")}, answer: `[{"value":"/root/a/osquery.db"}]`,
		}
	}
	for want, spoil := range map[string]func(*client){
		"":                               func(*client) {},
		"no config was fetched":          func(c *client) { c.configs = 0 },
		`the tenant is "B"`:              func(c *client) { c.tenant = "B" },
		"no results of its schedule":     func(c *client) { c.logs = nil },
		`a result of "clock-of-b" came`:  func(c *client) { c.logs = append(c.logs, queryName("b")) },
		"refused did not come again":     func(c *client) { c.batches = map[string]int{"a/status/1-1": 1} },
		"the distributed query was not":  func(c *client) { c.answer = "" },
		"/osquery.db\"}] is not its own": func(c *client) { c.answer = `[{"value":"/root/b/osquery.db"}]` },
	} {
		s := NewServer(t.Logf, "a")
		c := good()
		spoil(c)
		s.clients["a"] = c
		missing := strings.Join(s.Missing("a"), "; ")
		if (want == "") != (missing == "") || !strings.Contains(missing, want) {
			t.Errorf("missing is %q, want %q", missing, want)
		}
	}
}
