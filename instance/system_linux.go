package instance

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/osqvisor/osqvisor/internal/control"
)

// systemClock compares the clock that goes on in a sleep with the one that does not. Neither
// can be set.
func systemClock() control.Clock {
	running := readClock(unix.CLOCK_MONOTONIC)
	var now unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &now) != nil {
		return sleepClock(running, running) // no sleep shows
	}
	return sleepClock(readClock(unix.CLOCK_BOOTTIME), running)
}

// readClock is for clocks that are there.
func readClock(id int32) func() time.Duration {
	return func() time.Duration {
		var now unix.Timespec
		_ = unix.ClockGettime(id, &now) // 0, of a clock that was there
		return time.Duration(now.Nano())
	}
}

// cgroupRoot is where version 2 of control groups is mounted.
const cgroupRoot = "/sys/fs/cgroup"

// oomKills counts the processes of our control group, which osqueryd is in, that the
// kernel killed for want of memory. It is 0 where the kernel does not count.
func oomKills() uint64 {
	groups, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(groups)) {
		group, ok := strings.CutPrefix(strings.TrimSpace(line), "0::")
		if !ok {
			continue
		}
		events, err := os.ReadFile(filepath.Join(cgroupRoot, group, "memory.events"))
		if err != nil {
			return 0 // the root group has none
		}
		return oomKillsIn(string(events))
	}
	return 0
}

// oomKillsIn reads the text of memory.events.
func oomKillsIn(events string) uint64 {
	for line := range strings.Lines(events) {
		if count, ok := strings.CutPrefix(line, "oom_kill "); ok {
			n, _ := strconv.ParseUint(strings.TrimSpace(count), 10, 64)
			return n
		}
	}
	return 0
}

// hasThread reports whether a thread belongs to a process that lives.
func hasThread(pid int, thread uint64) bool {
	_, err := os.Stat("/proc/" + strconv.Itoa(pid) + "/task/" + strconv.FormatUint(thread, 10))
	return err == nil
}
