package process

import (
	"errors"

	"golang.org/x/sys/unix"
)

// isWrongFormat includes EBADARCH and EBADEXEC, which macOS answers for a binary of another architecture.
func isWrongFormat(err error) bool {
	return errors.Is(err, unix.ENOEXEC) || errors.Is(err, unix.EBADARCH) || errors.Is(err, unix.EBADEXEC)
}
