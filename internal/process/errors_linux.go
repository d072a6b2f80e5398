package process

import (
	"errors"

	"golang.org/x/sys/unix"
)

// isWrongFormat includes ELIBBAD, which some loaders' files answer for a binary of another architecture.
func isWrongFormat(err error) bool {
	return errors.Is(err, unix.ENOEXEC) || errors.Is(err, unix.ELIBBAD)
}
