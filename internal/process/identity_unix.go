//go:build unix

package process

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

func signalNumber(sig os.Signal) (syscall.Signal, error) {
	number, ok := sig.(syscall.Signal)
	if !ok {
		return 0, ErrUnsupportedSignal
	}
	return number, nil
}

func gone(err error) error {
	if errors.Is(err, unix.ESRCH) {
		return ErrNotFound
	}
	return err
}
