package process

import (
	"context"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func inherited(fd uintptr) bool {
	link, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(int(fd)))
	flags, flagErr := unix.FcntlInt(fd, unix.F_GETFD, 0)
	return err == nil && flagErr == nil && strings.HasPrefix(link, "pipe:") && flags&unix.FD_CLOEXEC == 0
}

// checkLeaks fails the test when it ends with more goroutines, files or children than it began with. It must be called
// before anything that registers clean-ups.
func checkLeaks(t *testing.T) {
	t.Helper()
	// The first pipe makes the runtime open its poller, which stays.
	if r, w, err := os.Pipe(); err == nil {
		r.Close()
		w.Close()
	}
	goroutines, files := runtime.NumGoroutine(), openFiles(t)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		clean := func() bool {
			return runtime.NumGoroutine() <= goroutines && openFiles(t) <= files && len(childrenOf(os.Getpid())) == 0
		}
		if waitUntil(ctx, clean) != nil {
			stacks := make([]byte, 64<<10)
			t.Errorf("leak: goroutines %d → %d, files %d → %d, children %v\n%s", goroutines, runtime.NumGoroutine(),
				files, openFiles(t), childrenOf(os.Getpid()), stacks[:runtime.Stack(stacks, true)])
		}
	})
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// children lists all children of this process, zombies included.
func children(*testing.T) []string { return childrenOf(os.Getpid()) }
