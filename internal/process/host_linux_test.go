package process

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/osqvisor/osqvisor/internal/testhelp"
)

// startHost starts a host process, not by this package, and returns it with its watcher and worker.
func startHost(t *testing.T, flags string) (host *exec.Cmd, watcher, worker Identity) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	heard := newListener()
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	host = exec.Command(exe)
	host.Env = append(os.Environ(), roleEnv+"=host:"+flags)
	host.Stdout, host.Stderr = in, in
	if err := host.Start(); err != nil {
		t.Fatal(err)
	}
	in.Close()
	reader := newReader(out, heard.hear)
	go reader.run()
	t.Cleanup(func() { <-reader.done })
	t.Cleanup(func() {
		host.Process.Kill()
		host.Wait()
	})
	var both []Identity
	var pid int
	for len(both) < 2 || pid == 0 {
		select {
		case line := <-heard:
			both, pid = readHostLine(t, line, both, pid)
		case <-time.After(patience):
			t.Fatal("host did not start its children")
		}
	}
	if both[0].PID != pid {
		both[0], both[1] = both[1], both[0]
	}
	return host, both[0], both[1]
}

func readHostLine(t *testing.T, line string, both []Identity, child int) ([]Identity, int) {
	t.Helper()
	fields := append(strings.Fields(line), "", "")
	pid, _ := strconv.Atoi(fields[1])
	switch fields[0] {
	case "child":
		return both, pid
	case "ready":
		id, err := Identify(pid)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { id.Kill() })
		return append(both, id), child
	}
	t.Fatalf("host printed %q", line)
	return nil, 0
}

func killHost(t *testing.T, host *exec.Cmd) {
	t.Helper()
	if err := host.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	host.Wait()
}

// TestPromiseNoOrphansAfterKilledHost: nobody is alive 2 s after kill -9 of the host, the worker included.
func TestPromiseNoOrphansAfterKilledHost(t *testing.T) {
	testhelp.CheckLeaks(t)
	host, watcher, worker := startHost(t, "")
	killHost(t, host)
	mustGo(t, 2*time.Second, watcher, worker)
}

// Each of the two means works alone; without either the children stay, so these tests can fail.
func TestTetherAloneKillsTheWholeGroup(t *testing.T) {
	testhelp.CheckLeaks(t)
	host, watcher, worker := startHost(t, "nosignal")
	killHost(t, host)
	mustGo(t, 2*time.Second, watcher, worker)
}

func TestParentDeathSignalAloneKillsTheLeader(t *testing.T) {
	testhelp.CheckLeaks(t)
	host, watcher, worker := startHost(t, "notether")
	killHost(t, host)
	mustGo(t, 2*time.Second, watcher)
	if !worker.Alive() {
		t.Error("worker is gone, though only the tether reaches it")
	}
}

func TestWithoutEitherTheGroupStays(t *testing.T) {
	testhelp.CheckLeaks(t)
	host, watcher, worker := startHost(t, "nosignal,notether")
	killHost(t, host)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if waitUntil(ctx, func() bool { return !watcher.Alive() || !worker.Alive() }) == nil {
		t.Error("children are gone, so the other tests prove nothing")
	}
}

func TestReclaimAfterKilledHost(t *testing.T) {
	for name, tt := range map[string]struct {
		flags string
		alive int
	}{
		"orphaned worker":    {"notether", 1},
		"watcher and worker": {"notether,nosignal", 2},
		"nobody":             {"", 0},
	} {
		t.Run(name, func(t *testing.T) {
			testhelp.CheckLeaks(t)
			path := filepath.Join(t.TempDir(), "lease")
			host, watcher, worker := startHost(t, tt.flags+"="+path)
			assertHeld(t, path)
			killHost(t, host)
			expected := []Identity{watcher, worker}[2-tt.alive:]
			gone := []Identity{watcher, worker}[:2-tt.alive]
			mustGo(t, 2*time.Second, gone...)
			assertReclaimed(t, path, expected)
			mustGo(t, time.Millisecond, watcher, worker)
		})
	}
}

// Whoever inherited the write end would keep the tether from ending when the host dies.
func TestTetherIsNotInheritedByOtherChildren(t *testing.T) {
	testhelp.CheckLeaks(t)
	heard := newListener()
	first := mustStart(t, roleSpec("sleep", heard.hear))
	second := mustStart(t, roleSpec("sleep", heard.hear))
	heard.ready(t, 2)
	if !first.box.tethered() || !second.box.tethered() {
		t.Fatal("tether could not be armed")
	}
	mine := pipeName(t, first.box.tether.write)
	holders := func(p *Process) (n int) {
		dir := "/proc/" + strconv.Itoa(p.PID()) + "/fd/"
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, entry := range entries {
			if link, _ := os.Readlink(dir + entry.Name()); link == mine {
				n++
			}
		}
		return n
	}
	if a, b := holders(first), holders(second); a != 1 || b != 0 {
		t.Errorf("ends of the first tether: %d in the first child, %d in the second; want 1 and 0", a, b)
	}
}

// pipeName does not use Fd, which races with the owner's Close.
func pipeName(t *testing.T, file *os.File) (name string) {
	t.Helper()
	conn, err := file.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	err = conn.Control(func(fd uintptr) {
		name, err = os.Readlink("/proc/self/fd/" + strconv.Itoa(int(fd)))
	})
	if err != nil || name == "" {
		t.Fatalf("pipe has no name: %v", err)
	}
	return name
}

func assertHeld(t *testing.T, path string) {
	t.Helper()
	killed, err := Reclaim(t.Context(), path, ReclaimOptions{})
	if !errors.Is(err, ErrLeaseHeld) || len(killed) != 0 {
		t.Errorf("living host: got %+v, %v; want it held", killed, err)
	}
}
