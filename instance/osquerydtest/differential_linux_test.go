package osquerydtest_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/osqvisor/osqvisor/instance/osquerydtest"
)

// The differential tests do the same to the fake and, when OSQUERYD names one,
// to a real osqueryd, and compare what shows outside with a transcript in
// testdata/differential. The transcripts are recorded from the real one:
//
//	OSQUERYD=/path/of/osqueryd go test -run Differential ./instance/osquerydtest -args -record
const (
	transcripts = "testdata/differential"
	patience    = 40 * time.Second
)

// recordedVersions are those that the transcripts were found to hold for. They name none
// themselves: a version stands as VERSION in them.
var recordedVersions = []string{"5.23.0", "5.23.1"}

var record = flag.Bool("record", false, "write the transcripts, from the osqueryd that OSQUERYD names")

// subject is the program under test.
type subject struct {
	bin  string
	fake *osquerydtest.Fake // nil for a real one
	env  []string           // of what it launches
}

// transcript is what was observed, a line each.
type transcript struct{ lines []string }

func (o *transcript) add(format string, args ...any) {
	o.lines = append(o.lines, strings.Split(strings.TrimRight(fmt.Sprintf(format, args...), "\n"), "\n")...)
}

// differential plays a scenario on every subject.
func differential(t *testing.T, name string, play func(t *testing.T, s *subject, o *transcript)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		file := filepath.Join(transcripts, strings.ReplaceAll(name, " ", "-")+".txt")
		if bin := realOsqueryd(t); bin != "" {
			t.Run("real", func(t *testing.T) {
				t.Parallel()
				check(t, file, *record, observe(t, &subject{bin: bin}, play))
			})
		}
		if *record {
			return
		}
		t.Run("fake", func(t *testing.T) {
			t.Parallel()
			fake := osquerydtest.Start(t, osquerydtest.WithScript(osquerydtest.Script{
				TimeScale: 0.01, WatcherPoll: 20 * time.Millisecond, QuickDeath: 300 * time.Millisecond,
			}))
			check(t, file, false, observe(t, &subject{bin: fake.Path(), fake: fake}, play))
		})
	})
}

func observe(t *testing.T, s *subject, play func(*testing.T, *subject, *transcript)) string {
	t.Helper()
	o := &transcript{}
	play(t, s, o)
	o.lines = slices.DeleteFunc(o.lines, decidedByLoad)
	return strings.Join(o.lines, "\n") + "\n"
}

// decidedByLoad reports whether a line is printed only when the worker takes longer to leave
// than the watcher waits, which the load of the machine decides.
func decidedByLoad(line string) bool {
	return strings.Contains(line, "could not be stopped. Sending kill signal.")
}

func check(t *testing.T, file string, write bool, got string) {
	t.Helper()
	if write {
		if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); diff != "" {
		t.Errorf("(-recorded +observed):\n%s", diff)
	}
}

// realOsqueryd is empty when there is none, or one whose words may be others.
func realOsqueryd(t *testing.T) string {
	t.Helper()
	bin := os.Getenv("OSQUERYD")
	if bin == "" {
		if *record {
			t.Fatal("-record needs OSQUERYD")
		}
		return ""
	}
	out, err := exec.CommandContext(testContext(t), bin, "--version").Output()
	if err != nil {
		t.Fatal(err)
	}
	if version := versionText.FindStringSubmatch(string(out)); len(version) < 3 || !slices.Contains(recordedVersions, version[2]) {
		t.Logf("%s prints %q, and the transcripts are of %v: it is left out", bin, out, recordedVersions)
		return ""
	}
	return bin
}

// daemon is a subject's process in its directory.
type daemon struct {
	t      *testing.T
	s      *subject
	dir    string
	cmd    *exec.Cmd
	stdout *syncBuffer
	stderr *syncBuffer
	exited chan struct{}
}

// base are the flags of every start: nothing of the machine's own.
func base(dir string, more ...string) []string {
	return append(instanceArgs(dir, "--extensions_autoload=", "--disable_events", "--host_identifier=specified",
		"--specified_identifier=box", "--schedule_splay_percent=2"), more...)
}

// launch starts a subject with exactly these arguments.
func (s *subject) launch(t *testing.T, dir string, args ...string) *daemon {
	t.Helper()
	d := &daemon{t: t, s: s, dir: dir, stdout: &syncBuffer{}, stderr: &syncBuffer{}, exited: make(chan struct{})}
	d.cmd = exec.Command(s.bin, args...)
	d.cmd.Stdout, d.cmd.Stderr = d.stdout, d.stderr
	d.cmd.Env, d.cmd.Dir = append([]string{}, s.env...), dir
	d.cmd.SysProcAttr = ownGroup()
	d.cmd.WaitDelay = 5 * time.Second
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(d.exited)
		_ = d.cmd.Wait()
	}()
	t.Cleanup(func() {
		killGroup(d.cmd.Process.Pid)
		<-d.exited
	})
	return d
}

// end waits for the exit, and says how it was.
func (d *daemon) end() string {
	d.t.Helper()
	select {
	case <-d.exited:
		return d.cmd.ProcessState.String()
	case <-time.After(patience):
		d.t.Fatalf("no exit; stderr:\n%s", d.stderr)
		return ""
	}
}

// until waits for a condition that nothing announces.
func (d *daemon) until(what string, is func() bool) {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			d.t.Fatalf("waited in vain for %s; stderr:\n%s", what, d.stderr)
		}
	}
}

func (d *daemon) hears(text string) {
	d.t.Helper()
	d.until(text, func() bool { return strings.Contains(d.stderr.String(), text) })
}

func (d *daemon) exists(name string) bool {
	_, err := os.Stat(filepath.Join(d.dir, name))
	return !errors.Is(err, fs.ErrNotExist)
}

// said are stderr's lines without what differs from run to run: times, places,
// pids. Information lines are left out, but for those that contain a text of keep.
func (d *daemon) said(keep ...string) string { return d.tidy(d.stderr.String(), keep...) }

var (
	glogLine = regexp.MustCompile(`^([IWEF])\d{4} [\d:.]+ +\d+ \S+\] (.*)$`)
	// versionText is what --version prints.
	versionText = regexp.MustCompile(`((?:osqueryd|BIN) version )(\d+\.\d+\.\d+)`)
	pidText     = regexp.MustCompile(`\((\d{2,})\)|(worker|watcher|pid|PID) \d{2,}`)
	uuidText    = regexp.MustCompile(`(UUID |em\.)\d+`)
)

func (d *daemon) tidy(text string, keep ...string) string {
	var out []string
	count := map[string]int{}
	for line := range strings.Lines(text) {
		line = d.scrub(strings.TrimRight(line, "\r\n"))
		if m := glogLine.FindStringSubmatch(line); m != nil {
			line = m[1] + " " + m[2]
		}
		if strings.HasPrefix(line, "I ") && !containsAny(line, keep) {
			continue
		}
		if count[line]++; count[line] == 1 {
			out = append(out, line)
		}
	}
	for i, line := range out {
		if n := count[line]; n > 1 {
			out[i] = line + " ×" + strconv.Itoa(n)
		}
	}
	return strings.Join(out, "\n")
}

func (d *daemon) scrub(line string) string {
	line = strings.ReplaceAll(line, d.dir, "DIR")
	line = strings.ReplaceAll(line, d.s.bin, "BIN")
	line = versionText.ReplaceAllString(line, "${1}VERSION")
	line = uuidText.ReplaceAllString(line, "${1}N")
	return pidText.ReplaceAllStringFunc(line, func(m string) string {
		return regexp.MustCompile(`\d+`).ReplaceAllString(m, "PID")
	})
}

func containsAny(s string, texts []string) bool {
	for _, text := range texts {
		if strings.Contains(s, text) {
			return true
		}
	}
	return false
}

// worker is the pid of the watcher's child, once it has opened its socket.
func (d *daemon) worker() int {
	d.t.Helper()
	var pid int
	d.until("a worker", func() bool {
		pid = d.child()
		return pid != 0
	})
	return pid
}

// child looks for the child of any thread of the watcher.
func (d *daemon) child() int {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", d.cmd.Process.Pid))
	if err != nil {
		d.t.Fatal(err)
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		for field := range bytes.FieldsSeq(raw) {
			if pid, err := strconv.Atoi(string(field)); err == nil {
				return pid
			}
		}
	}
	return 0
}

// ready waits for the socket and an answer.
func (d *daemon) ready() {
	d.t.Helper()
	d.until("an answer on the socket", func() bool {
		c, err := dialShort(filepath.Join(d.dir, "em"))
		if err != nil {
			return false
		}
		defer c.Close()
		rows, err := c.QueryRows("SELECT pid FROM osquery_info")
		return err == nil && len(rows) == 1
	})
}
