package process

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// maxLease is how much of a lease file is read, in bytes; a real one has less than 1 KiB.
const maxLease = 64 << 10

// ErrLeaseCorrupt says that a lease file is truncated, damaged or makes no sense. Nobody can be found by it.
var ErrLeaseCorrupt = errors.New("lease file is corrupt")

// Lease is the note about a running child by which a later host finds what a killed one left behind.
type Lease struct {
	// Identity is the child.
	Identity Identity `json:"identity"`
	// PGID is the child's process group, which is its pid; 0 on Windows.
	PGID int `json:"pgid"`
	// Binary is the absolute path that was executed.
	Binary string `json:"binary"`
	// RunID is the mark in RunEnv, from [Process.RunID].
	RunID string `json:"run_id"`
	// Socket is for the reader's information only.
	Socket string `json:"socket"`
	// Started is when the child was started.
	Started time.Time `json:"started"`
	// Host is the process that owns the child. While it lives, Reclaim touches nothing. The zero value is nobody.
	Host Identity `json:"host,omitzero"`
}

// WriteLease replaces the file at path as a whole, with mode 0600. It does not sync: a lease means nothing after a
// power failure, which ends the child as well. Errors are the file system's.
func WriteLease(path string, lease Lease) error {
	raw, err := json.Marshal(lease)
	if err != nil {
		return fmt.Errorf("encode lease: %w", err)
	}
	// CreateTemp makes the file with 0600. The same directory makes the rename atomic.
	file, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.tmp")
	if err != nil {
		return fmt.Errorf("write lease: %w", err)
	}
	_, err = file.Write(raw)
	err = errors.Join(err, file.Close())
	if err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write lease: %w", errors.Join(err, removeIfThere(file.Name())))
	}
	return nil
}

// ReadLease reads the file at path. The error wraps fs.ErrNotExist when there is none, and ErrLeaseCorrupt when it
// cannot be understood or names a process or group that can never be a child.
func ReadLease(path string) (Lease, error) {
	file, err := os.Open(path)
	if err != nil {
		return Lease{}, fmt.Errorf("read lease: %w", err)
	}
	defer file.Close()
	raw, err := io.ReadAll(io.LimitReader(file, maxLease))
	if err != nil {
		return Lease{}, fmt.Errorf("read lease: %w", err)
	}
	var lease Lease
	if err := json.Unmarshal(raw, &lease); err != nil {
		return Lease{}, fmt.Errorf("%w: %s: %w", ErrLeaseCorrupt, path, err)
	}
	if err := lease.check(); err != nil {
		return Lease{}, fmt.Errorf("%w: %s: %w", ErrLeaseCorrupt, path, err)
	}
	return lease, nil
}

// check keeps pids out that kill(2) takes for something else: 0 is the caller's group, 1 is init, -1 is everybody.
func (l Lease) check() error {
	switch {
	case l.Identity.PID <= 1:
		return fmt.Errorf("impossible pid %d", l.Identity.PID)
	case l.Identity.StartTime == "":
		return errors.New("no start time")
	case l.PGID != 0 && l.PGID != l.Identity.PID:
		return fmt.Errorf("group %d is not led by pid %d", l.PGID, l.Identity.PID)
	}
	return nil
}

// RemoveLease removes the file at path; one that does not exist is success.
func RemoveLease(path string) error {
	if err := removeIfThere(path); err != nil {
		return fmt.Errorf("remove lease: %w", err)
	}
	return nil
}

func removeIfThere(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
