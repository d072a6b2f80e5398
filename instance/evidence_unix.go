//go:build unix

package instance

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// outOfResources reports whether an error is of a descriptor, a process, memory or disk
// that could not be had. EAGAIN is not among them: a socket answers so whose owner is slow.
func outOfResources(err error) bool {
	for _, errno := range []error{
		unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.ENOSPC, unix.EDQUOT, unix.ENOBUFS,
	} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// lockedByAnother reports whether another process has a lock on a file that exists. RocksDB
// locks by fcntl, which tells, and takes nothing from the one who has it.
func lockedByAnother(path string) bool {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	lock := unix.Flock_t{Type: unix.F_WRLCK}
	return unix.FcntlFlock(f.Fd(), unix.F_GETLK, &lock) == nil && lock.Type != unix.F_UNLCK
}
