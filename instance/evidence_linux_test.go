package instance

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestTrial14LockHeldByAnother(t *testing.T) {
	path := filepath.Join(t.TempDir(), "LOCK")
	if lockedByAnother(path) {
		t.Error("a file that is not there is locked")
	}
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if lockedByAnother(path) {
		t.Error("a file that nobody locked is locked")
	}
	// A lock of an open file stands against those of the same process, too.
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}); err != nil {
		t.Fatal(err)
	}
	if !lockedByAnother(path) {
		t.Error("the lock is not seen")
	}
}
