package instance

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// cgroupRoot is where version 2 of control groups is mounted.
const cgroupRoot = "/sys/fs/cgroup"

// oomKills counts the processes of our control group, which osqueryd is in, that the
// kernel killed for want of memory. It is 0 where the kernel does not tell.
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
