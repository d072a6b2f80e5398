package process

import (
	"errors"
	"fmt"
)

// Identity distinguishes a process from every other one, even from a later one with the same pid. The zero value is no process.
// It is comparable, and safe for concurrent use because it never changes.
type Identity struct {
	// PID is the process id.
	PID int `json:"pid"`
	// StartTime is the kernel's own start time of the process, opaque but for equality: on Linux the boot id and the clock
	// ticks since boot, on macOS the start time in microseconds, on Windows the creation FILETIME.
	StartTime string `json:"start_time"`
}

var (
	// ErrNotFound means that no process has the pid.
	ErrNotFound = errors.New("process not found")
	// ErrNotProven means that processes were found that may be ours, but nothing proves it, so none was signalled.
	ErrNotProven = errors.New("process not proven to be ours")
	// ErrStillAlive means that a bounded wait ended before the processes did.
	ErrStillAlive = errors.New("process still alive")
)

// procInfo is what one look at a process finds.
type procInfo struct {
	id     Identity
	pgid   int // 0 on Windows, which has no groups
	zombie bool
}

// Identify returns the identity of the process that has the pid now. A process that has ended but was not yet waited
// for still has one. The error wraps ErrNotFound when there is none. It does not block, and may be called from anywhere.
func Identify(pid int) (Identity, error) {
	info, err := probe(pid)
	if err != nil {
		return Identity{}, fmt.Errorf("identify pid %d: %w", pid, err)
	}
	return info.id, nil
}

// Alive reports whether the process runs: same pid, same start time, and not merely waiting to be reaped.
func (id Identity) Alive() bool {
	info, err := probe(id.PID)
	return err == nil && info.id == id && !info.zombie
}

// Kill ends the process and nobody else: when the pid is free or belongs to another process by now, it does nothing. A
// process that is gone is success, since there is nothing left to kill. It does not wait for the end.
func (id Identity) Kill() error {
	err := killProcess(id)
	if err == nil || errors.Is(err, ErrNotFound) {
		return nil
	}
	return fmt.Errorf("kill pid %d: %w", id.PID, err)
}
