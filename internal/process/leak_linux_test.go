package process

import (
	"os"
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
