//go:build unix

package instance_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/instance/osquerydtest"
	osprocess "github.com/osqvisor/osqvisor/internal/process"
)

// A root in which any user can replace the directories of instances is no root.
func TestTrial30RootThatOthersCanWriteTo(t *testing.T) {
	t.Parallel()
	fake := osquerydtest.Start(t)
	open := func(mode os.FileMode) string {
		dir := filepath.Join(publicDir(t), "root")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		chmod(t, dir, mode)
		return dir
	}
	bad := open(0o777)
	wantTexts(t, refused(t, "a", instance.WithBinary(fake.Path()), instance.WithRoot(bad)),
		"WithRoot: "+bad, "can be written by every user", "chmod")
	if err := instance.CheckRoot(bad); err == nil {
		t.Error("CheckRoot accepts it")
	}
	if err := instance.CheckRoot(open(0o777 | os.ModeSticky)); err != nil {
		t.Errorf("a sticky one, where nobody can replace what is another's: %v", err)
	}
	if err := instance.CheckRoot(open(0o755)); err != nil {
		t.Error(err)
	}
}

func TestTrial30RootThatAGroupCanWriteTo(t *testing.T) {
	asRoot(t)
	t.Parallel()
	dir := filepath.Join(publicDir(t), "root")
	if err := errors.Join(os.Mkdir(dir, 0o700), os.Chown(dir, 0, 4242)); err != nil {
		t.Fatal(err)
	}
	chmod(t, dir, 0o775)
	err := instance.CheckRoot(dir)
	if err == nil {
		t.Fatal("CheckRoot accepts it")
	}
	wantTexts(t, err.Error(), dir, "can be written by group 4242")
}

// publicDir is a directory that others can enter; root's cannot be.
func publicDir(t testing.TB) string {
	t.Helper()
	dir := root(t)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// publicProgram is a program that others can reach.
func publicProgram(t *testing.T) (dir, path string) {
	t.Helper()
	path = program(t, saysVersion)
	chmod(t, path, 0o755)
	chmod(t, filepath.Dir(path), 0o755)
	dir = filepath.Dir(filepath.Dir(path))
	chmod(t, dir, 0o755)
	return dir, path
}

// Whoever can replace a binary decides what runs as the host's user. The error names where.
func TestTrial30BinaryThatOthersCanReplace(t *testing.T) {
	t.Parallel()
	check := func(path string) string {
		t.Helper()
		_, err := instance.CheckBinary(patient(t), path)
		switch {
		case err == nil:
			return ""
		case !errors.Is(err, instance.ErrBinaryUnusable):
			t.Errorf("%v is not ErrBinaryUnusable", err)
		}
		return err.Error()
	}
	dir, path := publicProgram(t)
	if got := check(path); got != "" {
		t.Fatalf("a safe one: %s", got)
	}
	chmod(t, filepath.Dir(path), 0o777)
	wantTexts(t, check(path), path, filepath.Dir(path)+" can be written by every user")
	chmod(t, filepath.Dir(path), 0o755)
	chmod(t, dir, 0o777)
	wantTexts(t, check(path), path, dir+" can be written by every user")
	chmod(t, dir, 0o777|os.ModeSticky) // as /tmp: what is ours stays ours
	if got := check(path); got != "" {
		t.Errorf("below a sticky directory: %s", got)
	}
	chmod(t, dir, 0o755)

	links, _ := publicProgram(t)
	link := filepath.Join(links, "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if got := check(link); got != "" {
		t.Errorf("by a link: %s", got)
	}
	chmod(t, links, 0o777)
	wantTexts(t, check(link), link, links+" can be written by every user")
	chmod(t, links, 0o755)
	chmod(t, dir, 0o777) // behind the link
	wantTexts(t, check(link), link, dir+" can be written by every user")
	chmod(t, dir, 0o700)
	chmod(t, filepath.Dir(path), 0o777) // but nobody gets there
	if got := check(link); got != "" {
		t.Errorf("in a directory that others cannot reach: %s", got)
	}
}

func TestTrial30BinaryOfAGroupOrAnother(t *testing.T) {
	asRoot(t)
	t.Parallel()
	refuses := func(path string, texts ...string) {
		t.Helper()
		_, err := instance.CheckBinary(patient(t), path)
		if !errors.Is(err, instance.ErrBinaryUnusable) {
			t.Fatalf("%v, want ErrBinaryUnusable", err)
		}
		wantTexts(t, err.Error(), texts...)
	}
	own := func(path string, uid, gid int, mode os.FileMode) {
		t.Helper()
		if err := os.Lchown(path, uid, gid); err != nil {
			t.Fatal(err)
		}
		if mode != 0 {
			chmod(t, path, mode)
		}
	}
	dir, path := publicProgram(t)
	own(path, 0, 4242, 0o775)
	refuses(path, path+" can be written by group 4242", "chmod g-w")
	own(path, 0, 0, 0o755)
	own(dir, 0, 4242, 0o775)
	refuses(path, path, dir+" can be written by group 4242")
	own(dir, 4242, 0, 0o755)
	refuses(path, path, dir+" belongs to user 4242")
	own(dir, 0, 0, 0o775) // root's own group
	if _, err := instance.CheckBinary(patient(t), path); err != nil {
		t.Error(err)
	}
	shared, _ := publicProgram(t)
	link := filepath.Join(shared, "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	chmod(t, shared, 0o777|os.ModeSticky)
	own(link, 4242, 4242, 0)
	refuses(link, link+" belongs to user 4242")
}

// Any user may make any name in a shared temporary directory; the instance runs nonetheless.
func TestTrial30SquattedSocketDirectory(t *testing.T) {
	tmp := root(t)
	chmod(t, tmp, 0o777|os.ModeSticky)
	t.Setenv("TMPDIR", tmp)
	fake := osquerydtest.Start(t, osquerydtest.WithScript(fast))
	target := filepath.Join(publicDir(t), "target")
	if err := errors.Join(os.Mkdir(target, 0o755), os.WriteFile(target+"/s", []byte("theirs"), 0o600)); err != nil {
		t.Fatal(err)
	}
	squat := func(name string) {
		t.Helper()
		if err := os.Symlink(target, name); err != nil {
			t.Fatal(err)
		}
	}
	squat(filepath.Join(tmp, "osqvisor-"+strconv.Itoa(os.Geteuid())))
	in := newInstance(t, fake.Path(), instance.WithRoot(filepath.Join(publicDir(t), strings.Repeat("long", 25))))
	once(t, in)
	first := in.Socket()
	if dir := filepath.Dir(first); filepath.Dir(dir) != tmp {
		t.Fatalf("socket %s", first)
	}
	squat(filepath.Dir(first)) // its name was seen during the run
	once(t, in)
	if in.Socket() == first {
		t.Errorf("the second run used %s, which is another's", first)
	}
	if text, err := os.ReadFile(target + "/s"); string(text) != "theirs" {
		t.Errorf("a file of theirs: %q, %v", text, err)
	}
	if left := socketDirs(t, tmp); len(left) != 2 {
		t.Errorf("left %v", left)
	}
}

func socketDirs(t *testing.T, tmp string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(tmp, "osqvisor-*"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// A temporary directory in which others can replace what is ours holds no socket.
func TestTrial30TemporaryDirectoryWithoutStickyBit(t *testing.T) {
	fake := osquerydtest.Start(t)
	tmp, runtimeDir := publicDir(t), root(t)
	chmod(t, tmp, 0o777)
	t.Setenv("TMPDIR", tmp)
	t.Setenv("XDG_RUNTIME_DIR", runtimeDir)
	long := filepath.Join(publicDir(t), strings.Repeat("long", 25))
	chmod(t, filepath.Dir(long), 0o700)
	in, err := instance.New("a", instance.WithBinary(fake.Path()), instance.WithRoot(long))
	if err != nil {
		t.Fatal(err)
	}
	if socket := in.Socket(); !strings.HasPrefix(socket, runtimeDir+"/") {
		t.Errorf("socket %s", socket)
	}
	if err := in.Close(patient(t)); err != nil {
		t.Error(err)
	}
}

// A killed host leaves its socket's directory, which the next start finds again.
func TestTrial30KilledHostLeavesNoSocketDirectory(t *testing.T) {
	tmp := root(t)
	t.Setenv("TMPDIR", tmp)
	fake := osquerydtest.Start(t, osquerydtest.WithScript(fast))
	dir := filepath.Join(publicDir(t), strings.Repeat("long", 25))
	killedHost(t, fake.Path(), dir)
	if before := socketDirs(t, tmp); len(before) != 1 {
		t.Fatalf("left by the killed host: %v", before)
	}
	once(t, newInstance(t, fake.Path(), instance.WithRoot(dir)))
	if left := socketDirs(t, tmp); len(left) != 0 {
		t.Errorf("left %v", left)
	}
}

// wrapper is a program with a child, whose pids it writes to a pipe that the test reads.
func wrapper(t *testing.T) (path string, pids func() []osprocess.Identity) {
	t.Helper()
	path = program(t, "")
	fifo := filepath.Join(filepath.Dir(path), "pids")
	if err := exec.Command("mkfifo", fifo).Run(); err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf("#!/bin/sh\nsleep 600 &\necho $$ $! >%s\nwait\n", fifo)
	if err := os.WriteFile(path, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	return path, func() []osprocess.Identity {
		t.Helper()
		text, err := os.ReadFile(fifo)
		if err != nil {
			t.Fatal(err)
		}
		var ids []osprocess.Identity
		for _, field := range strings.Fields(string(text)) {
			id, err := osprocess.Identify(atoi(t, field))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = id.Kill() })
			ids = append(ids, id)
		}
		if len(ids) != 2 {
			t.Fatalf("the wrapper wrote %q", text)
		}
		return ids
	}
}

// A check that is given up leaves no process, as when the binary is a script.
func TestTrial31CheckEndsWhatTheBinaryStarted(t *testing.T) {
	t.Parallel()
	path, pids := wrapper(t)
	ctx, cancel := context.WithCancel(patient(t))
	done := make(chan error, 1)
	go func() {
		_, err := instance.CheckBinary(ctx, path, instance.WithTimeouts(instance.Timeouts{Binary: patience}))
		done <- err
	}()
	ids := pids()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("the check returned %v", err)
	}
	for _, id := range ids {
		eventually(t, "process "+strconv.Itoa(id.PID)+" is gone", func() bool { return !id.Alive() })
	}
}

// The kernel ends a check with its host.
func TestTrial31CheckEndsWithTheHost(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("needs the kernel's help, which only Linux gives")
	}
	t.Parallel()
	path, pids := wrapper(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(patient(t), self)
	cmd.Env = append(os.Environ(), "OSQVISOR_TEST_ROOT="+root(t), "OSQVISOR_TEST_BINARY="+path)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ids := pids()
	eventually(t, "the kernel knows of the group", func() bool { return tethered(ids[0].PID) })
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	for _, id := range ids {
		eventually(t, "process "+strconv.Itoa(id.PID)+" is gone", func() bool { return !id.Alive() })
	}
}

// tethered reports whether the first file that a process inherited sends a signal (O_ASYNC).
func tethered(pid int) bool {
	const async = 0o20000
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/3", pid))
	var pos, flags int64
	_, scanErr := fmt.Sscanf(string(text), "pos:\t%d\nflags:\t%o", &pos, &flags)
	return err == nil && scanErr == nil && flags&async != 0
}

// A binary that prints without end is given up at once, not kept in memory until a timeout.
func TestTrial31CheckReadsABoundedOutput(t *testing.T) {
	t.Parallel()
	for name, script := range map[string]string{"lines": "exec yes", "one line": "exec cat /dev/zero"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := instance.CheckBinary(patient(t), program(t, "#!/bin/sh\n"+script+"\n"),
				instance.WithTimeouts(instance.Timeouts{Binary: 10 * time.Minute}))
			if !errors.Is(err, instance.ErrBinaryUnusable) {
				t.Fatalf("%v, want ErrBinaryUnusable", err)
			}
			wantTexts(t, err.Error(), "printed more than")
		})
	}
}

// A check runs the binary as a run does, or it judges something else.
func TestTrial31CheckPassesTheEnvironment(t *testing.T) {
	t.Parallel()
	path := program(t, "#!/bin/sh\ncase \"$*\" in *lives*) echo \"ERROR: unknown command line flag 'lives'\" >&2;; esac\n"+
		"[ \"$OSQUERY_SECRET\" = \"\" ] && echo osqueryd version $ACME_VERSION\n")
	b, err := instance.CheckBinary(patient(t), path, instance.WithEnv("ACME_VERSION=5.19.0"), instance.WithEnv("ACME_VERSION=5.20.0"))
	if err != nil || b.Version != "5.20.0" {
		t.Errorf("version %q, %v", b.Version, err)
	}
	in := newInstance(t, path, instance.WithEnv("ACME_VERSION=5.21.0"))
	if v := in.Binary().Version; v != "5.21.0" {
		t.Errorf("New's version %q", v)
	}
}

// As a subreaper, as the first process of a container is too, a host keeps no zombie of any run.
func TestTrial31RunsOfASubreaperLeaveNoZombies(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux has subreapers")
	}
	t.Parallel()
	each(t, func(t *testing.T, binary string) {
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(patient(t), self)
		cmd.Env = append(os.Environ(), "OSQVISOR_TEST_ROOT="+root(t), "OSQVISOR_TEST_BINARY="+binary, "OSQVISOR_TEST_REAPER=5")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(out).ReadString('\n')
		if err != nil || line != "5 runs, 0 zombies\n" {
			t.Errorf("the host said %q, %v", line, err)
		}
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
}

// An instance that is refused leaves no directory behind, and takes none away.
func TestTrial32FailedNewLeavesNothing(t *testing.T) {
	t.Parallel()
	base := root(t)
	for name, opts := range map[string][]instance.Option{
		"root":      {instance.WithRoot(filepath.Join(base, "x", "y"))},
		"directory": {instance.WithDirectory(filepath.Join(base, "z", "d"))},
		"long":      {instance.WithRoot(filepath.Join(base, strings.Repeat("long", 25)))},
	} {
		t.Run(name, func(t *testing.T) {
			_ = refused(t, "a", append(opts, instance.WithBinary("/no/such/osqueryd"))...)
			if left, err := os.ReadDir(base); err != nil || len(left) != 0 {
				t.Errorf("left %v, %v", left, err)
			}
		})
	}
	theirs := filepath.Join(base, "theirs", "a")
	if err := os.MkdirAll(theirs, 0o700); err != nil {
		t.Fatal(err)
	}
	_ = refused(t, "a", instance.WithRoot(filepath.Dir(theirs)), instance.WithBinary("/no/such/osqueryd"))
	_ = refused(t, "b", instance.WithRoot(filepath.Dir(theirs)), instance.WithBinary("/no/such/osqueryd"))
	if left, err := os.ReadDir(filepath.Dir(theirs)); err != nil || len(left) != 1 {
		t.Errorf("left %v, %v", left, err)
	}
}
