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

// proven reports whether id still owns its pid, running or as a zombie. As long as it does, neither the pid nor the
// number of the group it leads can be given to anybody else.
func (id Identity) proven() bool {
	info, err := probe(id.PID)
	return err == nil && info.id == id
}
