//go:build !windows

package osquerydtest

import (
	"os"
	"syscall"
)

// lockText is what the database says of a lock that is held elsewhere.
const lockText = "Resource temporarily unavailable"

// tryLock takes an exclusive lock that ends with the last descriptor of the
// open file.
func tryLock(f *os.File) error {
	return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
}
