package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"testing"
	"time"

	"github.com/osqvisor/osqvisor/instance/osquerydtest"
)

// patience bounds every wait of a test; it is reached only by a defect.
const patience = 60 * time.Second

// asProgram makes the test binary be the program.
const asProgram = "QUICKSTART_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	osquerydtest.Main()
	if os.Getenv(asProgram) != "" {
		main()
	}
	os.Exit(m.Run())
}

// program is the example as a user starts it, on a machine without osqueryd.
type program struct {
	*exec.Cmd
	temporary string
}

func newProgram(t *testing.T, args ...string) *program {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	temporary, err := os.MkdirTemp("", "qs") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(temporary) })
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	p := &program{Cmd: exec.CommandContext(ctx, self, args...), temporary: temporary}
	p.Env = append(os.Environ(), asProgram+"=1", "OSQUERYD=", "PATH="+temporary, "TMPDIR="+temporary, "TMP="+temporary)
	return p
}

// checkClean fails the test when the program left files behind.
func (p *program) checkClean(t *testing.T) {
	t.Helper()
	left, err := os.ReadDir(p.temporary)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range left {
		t.Errorf("%s is left in the temporary directory", entry.Name())
	}
}

func TestTour(t *testing.T) {
	t.Parallel()
	t.Run("fake", func(t *testing.T) { testTour(t, osquerydtest.FakeName) })
	if real := os.Getenv("OSQUERYD"); real != "" {
		t.Run("real", func(t *testing.T) { testTour(t, real, "-osqueryd", real) })
	}
}

func testTour(t *testing.T, osqueryd string, args ...string) {
	t.Helper()
	p := newProgram(t, append(args, "-json", "-for", "2500ms")...)
	var stdout, stderr bytes.Buffer
	p.Stdout, p.Stderr = &stdout, &stderr
	if err := p.Run(); err != nil {
		t.Fatalf("%v\n%s%s", err, &stdout, &stderr)
	}
	if n := strings.Count(stdout.String(), "\n"); n != 1 {
		t.Errorf("stdout has %d lines, want the report alone:\n%s", n, &stdout)
	}
	var rep report
	if err := json.Unmarshal(stdout.Bytes(), &rep); err != nil {
		t.Fatalf("%v in %s", err, &stdout)
	}
	if !rep.OK || rep.Osqueryd != osqueryd || rep.Version == "" || rep.Instances != 3 || rep.Restarts != 1 ||
		!rep.Untouched || rep.Queries != 6 || rep.Orphans != 0 {
		t.Errorf("report %+v", rep)
	}
	for _, key := range []string{`"recovery_ms":`, `"orphans":0`, `"ok":true`, `"untouched":true`} {
		if !strings.Contains(stdout.String(), key) {
			t.Errorf("%s is missing in %s", key, &stdout)
		}
	}
	said := stderr.String()
	for _, line := range []string{
		"tenant-b  is added", "tenant-a  is killed", "the cause was: signal", "vendor    did not notice",
		"tenant-b  did not notice", "tenant-b  is removed", "8 processes that were seen, 0 are left",
	} {
		if strings.Count(said, line) != 1 {
			t.Errorf("%q is said %d times, want once:\n%s", line, strings.Count(said, line), said)
		}
	}
	if n := strings.Count(said, "using "); n != 1 {
		t.Errorf("which osqueryd is used is said in %d lines, want one:\n%s", n, said)
	}
	if !strings.Contains(said, "newest log line, of ") {
		t.Errorf("no log line came:\n%s", said)
	}
	if strings.Contains(said, "\x1b") {
		t.Error("control sequences were written to a pipe")
	}
	p.checkClean(t)
}

// A time that is too short is no reason to show half a tour.
func TestTooShortIsFinished(t *testing.T) {
	t.Parallel()
	p := newProgram(t, "-for", "0")
	out, err := p.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"-for 0s is shorter than the tour", "all as it should be: 3 instances"} {
		if !bytes.Contains(out, []byte(want)) {
			t.Errorf("%q is missing:\n%s", want, out)
		}
	}
}

func TestInterrupt(t *testing.T) {
	t.Parallel()
	if goruntime.GOOS == "windows" {
		t.Skip("one process cannot press Ctrl-C for another")
	}
	for name, test := range map[string]struct {
		length, at string
		code       int
		want       string
	}{
		"in the middle":       {"10m", "tenant-a  answers", exitInterrupted, "NOT as it should be: 2 instances"},
		"while they start":    {"10m", "using the built-in", exitInterrupted, "NOT as it should be"},
		"after the last step": {"3s", "the tour is over", 0, "all as it should be"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newProgram(t, "-for", test.length)
			out, err := p.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := p.Start(); err != nil {
				t.Fatal(err)
			}
			said := interruptAt(t, p, out, test.at)
			_ = p.Wait() // the exit code says it
			if code := p.ProcessState.ExitCode(); code != test.code {
				t.Errorf("exit code %d, want %d", code, test.code)
			}
			for _, want := range []string{test.want, " 0 orphans"} {
				if !strings.Contains(said, want) {
					t.Errorf("%q is missing:\n%s", want, said)
				}
			}
			p.checkClean(t)
		})
	}
}

// The second Ctrl-C does not wait for an osqueryd that will not leave.
func TestSecondInterruptForces(t *testing.T) {
	if goruntime.GOOS != "linux" {
		t.Skip("only Linux ends an osqueryd with its host")
	}
	t.Parallel()
	fake := osquerydtest.Start(t, osquerydtest.WithScript(osquerydtest.Script{}.WithRule(osquerydtest.Rule{
		Phase: osquerydtest.PhaseStart, Action: osquerydtest.Action{Do: osquerydtest.IgnoreTerm},
	}))) // and fails the test when a process of it is left
	p := newProgram(t, "-for", "10m", "-osqueryd", fake.Path())
	out, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	said := interruptAt(t, p, out, "tenant-a  answers", "stopping all of them")
	_ = p.Wait() // its state says it
	if code := p.ProcessState.ExitCode(); code != exitInterrupted || strings.Contains(said, "stopped: ") {
		t.Errorf("exit code %d, want %d at once:\n%s", code, exitInterrupted, said)
	}
	if took := time.Since(begin); took >= 20*time.Second {
		t.Errorf("it took %v, as long as osqueryd is waited for", took)
	}
}

// interruptAt reads what the program says to its end, and presses Ctrl-C at each of the
// words, one after the other.
func interruptAt(t *testing.T, p *program, out io.Reader, at ...string) string {
	t.Helper()
	var said strings.Builder
	for lines := bufio.NewScanner(out); lines.Scan(); {
		said.WriteString(lines.Text() + "\n")
		if len(at) > 0 && strings.Contains(lines.Text(), at[0]) {
			at = at[1:]
			if err := p.Process.Signal(os.Interrupt); err != nil {
				t.Error(err)
			}
		}
	}
	if len(at) > 0 {
		t.Errorf("%q was never said:\n%s", at, &said)
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
		"negative time": {[]string{"-for", "-1s"}, exitUsage, "negative"},
		"an argument":   {[]string{"vendor"}, exitUsage, `unexpected argument "vendor"`},
		"no osqueryd":   {[]string{"-json", "-osqueryd", missing}, exitFailed, "WithBinary"},
		"help":          {[]string{"-help"}, 0, "-osqueryd"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProgram(t, test.args...)
			out, _ := p.CombinedOutput()
			if code := p.ProcessState.ExitCode(); code != test.code {
				t.Errorf("exit code %d, want %d", code, test.code)
			}
			if !bytes.Contains(out, []byte(test.want)) {
				t.Errorf("%q is missing:\n%s", test.want, out)
			}
			p.checkClean(t)
		})
	}
}

// An osqueryd that happens to be in PATH and cannot be used does not spoil the tour.
func TestUnusableInPATH(t *testing.T) {
	t.Parallel()
	if goruntime.GOOS == "windows" {
		t.Skip("PATH finds programs by their extension there")
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "osqueryd"), []byte("#!/bin/sh\nexit 3\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	p := newProgram(t, "-for", "0")
	p.Env = append(p.Env, "PATH="+dir)
	out, err := p.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if !bytes.Contains(out, []byte("the osqueryd in PATH is not used")) {
		t.Errorf("the reason is missing:\n%s", out)
	}
}

// The data of a root that was named are kept.
func TestRootIsKept(t *testing.T) {
	t.Parallel()
	p := newProgram(t, "-for", "0", "-root", filepath.Join(t.TempDir(), "kept"))
	if out, err := p.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, id := range []string{"vendor", "tenant-a", "tenant-b"} {
		if _, err := os.Stat(filepath.Join(p.Args[len(p.Args)-1], id)); err != nil {
			t.Error(err)
		}
	}
}

func TestConcludeNeedsAll(t *testing.T) {
	good := report{Instances: 3, Restarts: 1, Untouched: true, Queries: 1}
	for name, test := range map[string]struct {
		spoil func(*report)
		err   error
		ok    bool
	}{
		"all":          {spoil: func(*report) {}, ok: true},
		"an error":     {spoil: func(*report) {}, err: errors.New("it failed")},
		"interrupted":  {spoil: func(*report) {}, err: errInterrupted},
		"two":          {spoil: func(r *report) { r.Instances = 2 }},
		"no restart":   {spoil: func(r *report) { r.Restarts = 0 }},
		"two restarts": {spoil: func(r *report) { r.Restarts = 2 }},
		"touched":      {spoil: func(r *report) { r.Untouched = false }},
		"no queries":   {spoil: func(r *report) { r.Queries = 0 }},
		"an orphan":    {spoil: func(r *report) { r.Orphans = 1 }},
	} {
		t.Run(name, func(t *testing.T) {
			r := good
			test.spoil(&r)
			r.conclude(test.err)
			if r.OK != test.ok || r.interrupted != (name == "interrupted") {
				t.Errorf("ok is %t, interrupted is %t", r.OK, r.interrupted)
			}
		})
	}
}
