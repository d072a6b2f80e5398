//go:build !windows

package spool

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
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

// isPassing reports whether the host is short of something, which means nothing for what the disk holds.
func isPassing(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ENOMEM)
}

func isNoSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

func spaceOf(dir string) diskSpace {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return diskSpace{}
	}
	bytes := func(blocks float64) int64 { return int64(min(blocks*float64(st.Bsize), math.MaxInt64/2)) }
	return diskSpace{free: bytes(float64(st.Bavail)), total: bytes(float64(st.Blocks))}
}
