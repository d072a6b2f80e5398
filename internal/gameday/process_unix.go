//go:build unix

package gameday

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// needsSignals is why a fault that needs signals cannot be done here: it can.
func needsSignals(*world) string { return "" }

// keepsPrograms is why the file of a running program cannot be changed: it can.
func keepsPrograms(*world) string { return "" }

func signalPID(pid int, sig syscall.Signal) error {
	if pid <= 1 {
		return fmt.Errorf("there is no process to signal, but pid %d", pid)
	}
	if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("%v to pid %d: %w", sig, pid, err)
	}
	return nil
}

func kill(pid int) error      { return signalPID(pid, syscall.SIGKILL) }
func freeze(pid int) error    { return signalPID(pid, syscall.SIGSTOP) }
func terminate(pid int) error { return signalPID(pid, syscall.SIGTERM) }

// killGroup kills osqueryd's process group, whose number is the watcher's pid.
func killGroup(watcher int) error {
	if watcher <= 1 {
		return fmt.Errorf("there is no group to kill, but %d", watcher)
	}
	if err := syscall.Kill(-watcher, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("SIGKILL to group %d: %w", watcher, err)
	}
	return nil
}

// lockFile takes both kinds of lock there are, as soon as nobody else holds them:
// osqueryd's pidfile has the one, its database the other.
func lockFile(f *os.File) error {
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("flock: %w", err)
	}
	whole := syscall.Flock_t{Type: syscall.F_WRLCK}
	if err := syscall.FcntlFlock(f.Fd(), syscall.F_SETLKW, &whole); err != nil {
		return fmt.Errorf("fcntl: %w", err)
	}
	return nil
}
