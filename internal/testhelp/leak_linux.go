package testhelp

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// openFiles lists this process's descriptors by what they are. The descriptor of
// the listing itself is in every listing alike.
func openFiles() []string {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range entries {
		to, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err == nil && !strings.HasPrefix(to, "anon_inode:[pidfd]") { // os.Process keeps those until collected
			out = append(out, e.Name()+" "+to)
		}
	}
	return out
}

// children lists the child processes of this one, zombies included.
func children() []string {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	self := strconv.Itoa(os.Getpid())
	var out []string
	for _, path := range stats {
		data, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		// pid (name) state ppid …; the name may hold anything.
		rest := string(data[strings.LastIndexByte(string(data), ')')+1:])
		if f := strings.Fields(rest); len(f) > 1 && f[1] == self {
			out = append(out, strings.TrimSpace(string(data[:min(len(data), 60)])))
		}
	}
	return out
}
