package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"testing"
	"time"

	"github.com/osqvisor/osqvisor/instance/osquerydtest"
	"github.com/osqvisor/osqvisor/runtime"
)

// asProgram makes the test binary be the program.
const asProgram = "HOSTGROUP_TEST_AS_PROGRAM"

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
	temporary := shortDir(t)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	t.Cleanup(func() {
		if left, err := os.ReadDir(temporary); err != nil || len(left) > 0 {
			t.Errorf("left in the temporary directory: %v, %v", left, err)
		}
	})
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Env = append(os.Environ(), asProgram+"=1", "TMPDIR="+temporary, "TMP="+temporary)
	return cmd
}

func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "hg") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func TestProgram(t *testing.T) {
	t.Parallel()
	osqueryds := map[string][]string{"fake": nil}
	if real := os.Getenv("OSQUERYD"); real != "" {
		osqueryds["real"] = []string{"-osqueryd", real}
	}
	for name, osqueryd := range osqueryds {
		for _, mode := range []string{"-service=false", "-service=true"} {
			t.Run(name+mode, func(t *testing.T) {
				t.Parallel()
				out, err := newProgram(t, append(osqueryd, mode, "-for", "1s")...).CombinedOutput()
				if err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
				for _, want := range []string{
					"status 200", `"healthy":true`, "worker: vendor answers", "worker: tenant-a answers", "all parts have ended",
				} {
					if !bytes.Contains(out, []byte(want)) {
						t.Errorf("%q is missing:\n%s", want, out)
					}
				}
			})
		}
	}
}

func TestInterrupt(t *testing.T) {
	if goruntime.GOOS == "windows" {
		t.Skip("one process cannot press Ctrl-C for another")
	}
	for _, test := range []struct {
		mode, at string
		code     int
	}{
		{"-service=false", "looking at", 130},
		{"-service=true", "looking at", 130},
		{"-service=false", "all is well", 0},
		{"-service=true", "all is well", 0},
	} {
		t.Run(test.mode+" "+test.at, func(t *testing.T) {
			t.Parallel()
			cmd := newProgram(t, test.mode, "-for", "10m")
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			said := interruptAt(t, cmd, out, test.at)
			_ = cmd.Wait() // the exit code says it
			if code := cmd.ProcessState.ExitCode(); code != test.code {
				t.Errorf("exit code %d, want %d:\n%s", code, test.code, said)
			}
			if ended := strings.Contains(said, "all parts have ended"); ended != (test.code == 0) {
				t.Errorf("a good end is told: %t, with exit code %d", ended, test.code)
			}
		})
	}
}

// interruptAt reads what the program says to its end, and presses Ctrl-C at a word.
func interruptAt(t *testing.T, cmd *exec.Cmd, out io.Reader, at string) string {
	t.Helper()
	var said strings.Builder
	sent := false
	for lines := bufio.NewScanner(out); lines.Scan(); {
		said.WriteString(lines.Text() + "\n")
		if !sent && strings.Contains(lines.Text(), at) {
			sent = true
			if err := cmd.Process.Signal(os.Interrupt); err != nil {
				t.Error(err)
			}
		}
	}
	return said.String()
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
		"bad address": {[]string{"-listen", "nowhere"}, 1, "nowhere"},
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

// newHost makes a host with two instances of a fake, which has to be gone at the end.
func newHost(t *testing.T) *host {
	t.Helper()
	fake := osquerydtest.Start(t)
	runner, err := runtime.New(
		runtime.WithBinary(fake.Path()), runtime.WithRoot(shortDir(t)),
		runtime.WithInstance("vendor"), runtime.WithInstance("tenant-a"),
	)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return &host{runner: runner, listener: listener, say: t.Logf, patience: askTimeout}
}

// An instance that does not answer in time is told of, as one that refuses is.
func TestWorkerTellsOfAnAnswerThatIsLate(t *testing.T) {
	h := newHost(t)
	defer h.listener.Close()
	h.patience = time.Nanosecond
	var said []string
	h.say = func(format string, args ...any) { said = append(said, fmt.Sprintf(format, args...)) }
	h.ask(t.Context(), "vendor")
	if len(said) != 1 || !strings.Contains(said[0], "vendor does not answer") {
		t.Errorf("the worker said %q, want that vendor does not answer", said)
	}
}

// The program does not go on without its parts.
func TestProgramEndsWithItsParts(t *testing.T) {
	for _, service := range []bool{false, true} {
		t.Run(fmt.Sprintf("service=%t", service), func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			h.say = func(format string, args ...any) {
				t.Logf(format, args...)
				if strings.Contains(format, "all is well") {
					_ = h.listener.Close() // the endpoint fails
				}
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			err := play(ctx, settings{length: time.Hour, service: service}, h)
			if !errors.Is(err, net.ErrClosed) || ctx.Err() != nil {
				t.Errorf("play gave %v, want at once that the listener is closed", err)
			}
		})
	}
}

func TestHealthFollowsTheRunner(t *testing.T) {
	h := newHost(t)
	status := func() int {
		w := httptest.NewRecorder()
		h.health(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/healthz", http.NoBody))
		return w.Code
	}
	if got := status(); got != http.StatusServiceUnavailable {
		t.Errorf("status %d before the run, want 503", got)
	}
	service := NewService(h.run)
	if err := service.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, id := range h.runner.IDs() {
		if err := h.runner.WaitReady(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
	if got := status(); got != http.StatusOK {
		t.Errorf("status %d while all are ready, want 200", got)
	}
	if err := service.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if got := status(); got != http.StatusServiceUnavailable {
		t.Errorf("status %d after the run, want 503", got)
	}
}

// When one part of the host fails, its error is told once the others are gone.
func TestFailingPartEndsTheOthers(t *testing.T) {
	h := newHost(t)
	before := goruntime.NumGoroutine()
	if err := h.listener.Close(); err != nil {
		t.Fatal(err)
	}
	if err := h.run(t.Context()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("run gave %v, want that the listener is closed", err)
	}
	for _, snapshot := range h.runner.Snapshots() {
		if snapshot.Run != nil {
			t.Errorf("%s still runs", snapshot.Instance)
		}
	}
	checkGoroutines(t, before)
}

// checkGoroutines fails the test when there are more goroutines than before. Those that
// have told their end may take a moment to be gone.
func checkGoroutines(t *testing.T, before int) {
	t.Helper()
	tick, over := time.NewTicker(10*time.Millisecond), time.NewTimer(5*time.Second)
	defer tick.Stop()
	defer over.Stop()
	for goruntime.NumGoroutine() > before {
		select {
		case <-tick.C:
		case <-over.C:
			stacks := make([]byte, 64<<10)
			t.Fatalf("%d goroutines, %d before:\n%s", goruntime.NumGoroutine(), before, stacks[:goruntime.Stack(stacks, true)])
		}
	}
}
