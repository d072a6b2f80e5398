package instance

import (
	"errors"
	"os"

	"golang.org/x/sys/windows"
)

// outOfResources reports whether an error is of a handle, a process, memory or disk that
// could not be had.
func outOfResources(err error) bool {
	for _, errno := range []error{
		windows.ERROR_TOO_MANY_OPEN_FILES, windows.ERROR_NOT_ENOUGH_MEMORY, windows.ERROR_OUTOFMEMORY,
		windows.ERROR_NO_SYSTEM_RESOURCES, windows.ERROR_DISK_FULL, windows.ERROR_HANDLE_DISK_FULL,
		windows.ERROR_COMMITMENT_LIMIT,
	} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// lockedByAnother reports whether another process has a file open that nobody may share.
func lockedByAnother(path string) bool {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return errors.Is(err, windows.ERROR_SHARING_VIOLATION)
	}
	_ = f.Close() // nothing was written
	return false
}
