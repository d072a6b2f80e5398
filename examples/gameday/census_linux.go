package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/osqvisor/osqvisor/internal/process"
)

// inhabitants looks at every process of the system, so that none is missed that the
// SDK, or the fake, knows nothing of.
func (w *world) inhabitants() []inhabitant {
	var out []inhabitant
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		exe, err := os.Readlink(filepath.Join(dir, "exe"))
		if err != nil || !strings.HasPrefix(exe, filepath.Dir(w.binary)+"/") {
			continue // another's, or a zombie
		}
		environ, err := os.ReadFile(filepath.Join(dir, "environ"))
		if err != nil {
			continue // gone meanwhile
		}
		pid, _ := strconv.Atoi(filepath.Base(dir)) // digits alone
		if run, ok := runOf(environ); ok {
			out = append(out, inhabitant{pid: pid, run: run})
		}
	}
	return out
}

// runOf is false for a process without a run, such as one asked for its version.
func runOf(environ []byte) (string, bool) {
	for entry := range bytes.SplitSeq(environ, []byte{0}) {
		if run, ok := bytes.CutPrefix(entry, []byte(process.RunEnv+"=")); ok {
			return string(run), true
		}
	}
	return "", false
}
