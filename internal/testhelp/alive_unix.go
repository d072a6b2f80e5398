//go:build unix

package testhelp

import (
	"errors"
	"syscall"
)

// Alive reports whether a process of that pid is there, a zombie included.
func Alive(pid int) bool {
	err := syscall.Kill(pid, 0)
	return err == nil || errors.Is(err, syscall.EPERM)
}
