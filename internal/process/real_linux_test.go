package process

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/osqvisor/osqvisor/internal/testhelp"
)

// A real osqueryd inherits the tether through both of its processes: the watcher's own fork and exec closes nothing.
func TestRealOsquerydDiesWithItsHost(t *testing.T) {
	bin := os.Getenv("OSQUERYD")
	if bin == "" {
		t.Skip("OSQUERYD does not name a binary")
	}
	for _, tt := range []struct {
		name, flags string
		within      time.Duration // of the worker's end
		stay        bool
	}{
		{"as by default", "", time.Second, false},
		{"tether alone", "nosignal", time.Second, false},
		// The watcher dies at once, and the worker notices at its next look, every 3 s.
		{"parent-death signal alone", "notether", 8 * time.Second, false},
		{"neither", "nosignal,notether", time.Second, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			testhelp.CheckLeaks(t)
			host, watcher, worker := startRealHost(t, bin, tt.flags)
			killHost(t, host)
			if tt.stay {
				ctx, cancel := context.WithTimeout(t.Context(), tt.within)
				defer cancel()
				// A worker may die of writing to the pipe that broke, and be replaced; the watcher stays.
				if waitUntil(ctx, func() bool { return !watcher.Alive() }) == nil {
					t.Error("osqueryd is gone without the means to end it, so the other cases prove nothing")
				}
				return
			}
			mustGo(t, time.Second, watcher)
			mustGo(t, tt.within, worker)
		})
	}
}

func startRealHost(t *testing.T, bin, flags string) (host *exec.Cmd, watcher, worker Identity) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	host = exec.Command(exe)
	host.Env = append(os.Environ(), roleEnv+"=real:"+flags+":"+bin+":"+t.TempDir())
	out, err := host.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := host.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		host.Process.Kill()
		host.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	fields := strings.Fields(line + " - - -")
	pid, _ := strconv.Atoi(fields[1])
	if err != nil || pid == 0 || fields[2] != strconv.FormatBool(!strings.Contains(flags, "notether")) {
		t.Fatalf("host printed %q, error %v", line, err)
	}
	watcher, worker = mustIdentify(t, pid), awaitChild(t, pid)
	t.Cleanup(func() { _ = watcher.Kill() }) // gone, or proven no more
	return host, watcher, worker
}

func mustIdentify(t *testing.T, pid int) Identity {
	t.Helper()
	id, err := Identify(pid)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { id.Kill() })
	return id
}

// awaitChild waits for a worker at work.
func awaitChild(t *testing.T, watcher int) Identity {
	t.Helper()
	var found int
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err := waitUntil(ctx, func() bool {
		members, err := groupMembers(watcher)
		for _, m := range members {
			if m.id.PID != watcher {
				found = m.id.PID
			}
		}
		return err == nil && found != 0 && hasThreads(found)
	})
	if err != nil {
		t.Fatalf("osqueryd %d has no worker: %v", watcher, err)
	}
	return mustIdentify(t, found)
}

// hasThreads distinguishes a worker at work from one that was only forked.
func hasThreads(pid int) bool {
	threads, err := os.ReadDir("/proc/" + strconv.Itoa(pid) + "/task")
	return err == nil && len(threads) > 3
}
