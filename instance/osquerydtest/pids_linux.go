package osquerydtest

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
)

// pidsOf finds the processes whose argv[0] is path.
func pidsOf(path string) []int {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	var pids []int
	for _, d := range dirs {
		argv, err := os.ReadFile(filepath.Join(d, "cmdline"))
		if err != nil {
			continue
		}
		argv0, _, _ := bytes.Cut(argv, []byte{0})
		if string(argv0) == path {
			pid, _ := strconv.Atoi(filepath.Base(d))
			pids = append(pids, pid)
		}
	}
	return pids
}
