package gameday

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/osqvisor/osqvisor/internal/process"
)

// systemKillsOrphans reports that the kernel ends osqueryd with its host.
const systemKillsOrphans = true

// mountSmall makes dir a file system of its own that can be filled up. It needs root.
func mountSmall(dir string) (unmount func() error, err error) {
	if err := syscall.Mount("gameday", dir, "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV, "size=64m,mode=0700"); err != nil {
		return nil, fmt.Errorf("a small file system of its own cannot be mounted, which takes root: %w", err)
	}
	return func() error {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount %s: %w", dir, err)
		}
		return nil
	}, nil
}

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
