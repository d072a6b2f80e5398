//go:build !windows

package spool

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

func (osFS) OpenLocked(name string) (file, error) {
	f, err := os.OpenFile(filepath.Clean(name), os.O_RDWR|os.O_CREATE, fileMode)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", name, ErrLocked)
		}
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	return lockedFile{osFile{f}}, nil
}

type lockedFile struct{ osFile }

// Close unlocks first: a child process between fork and exec may hold a copy of the descriptor, and with it the lock.
func (f lockedFile) Close() error {
	_ = syscall.Flock(int(f.Fd()), syscall.LOCK_UN)
	return f.osFile.Close()
}

func (osFS) SyncDir(dir string) error {
	d, err := os.Open(filepath.Clean(dir))
	if err != nil {
		return err
	}
	err = d.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOTSUP) || errors.Is(err, syscall.ENOSYS) {
		err = nil // this file system cannot, and has no better way
	}
	return errors.Join(err, d.Close())
}
