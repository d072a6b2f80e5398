package osquerydtest

import (
	"os"

	"golang.org/x/sys/windows"
)

const lockText = "The process cannot access the file because it is being used by another process."

// tryLock locks a byte far beyond the content, so that the file stays
// readable.
func tryLock(f *os.File) error {
	flags := uint32(windows.LOCKFILE_EXCLUSIVE_LOCK | windows.LOCKFILE_FAIL_IMMEDIATELY)
	return windows.LockFileEx(windows.Handle(f.Fd()), flags, 0, 1, 0, &windows.Overlapped{OffsetHigh: 1 << 30})
}
