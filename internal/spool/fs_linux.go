package spool

import (
	"errors"
	"os"
	"syscall"
)

// syncData skips what fsync would add, the timestamps: one journal write less for every line.
func syncData(f *os.File) error {
	for {
		err := syscall.Fdatasync(int(f.Fd()))
		if !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}
