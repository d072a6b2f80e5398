package spool

import (
	"errors"
	"fmt"
	"math"
	"os"
	"syscall"

	"golang.org/x/sys/windows"
)

const errorSharingViolation = syscall.Errno(32)

// OpenLocked shares the file with nobody, which the system undoes when the process ends however it ends.
func (osFS) OpenLocked(name string) (file, error) {
	path, err := syscall.UTF16PtrFromString(name)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	h, err := syscall.CreateFile(path, syscall.GENERIC_READ|syscall.GENERIC_WRITE, 0, nil, syscall.OPEN_ALWAYS,
		syscall.FILE_ATTRIBUTE_NORMAL, 0)
	if errors.Is(err, errorSharingViolation) {
		return nil, fmt.Errorf("lock %s: %w", name, ErrLocked)
	}
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	return osFile{os.NewFile(uintptr(h), name)}, nil
}

// SyncDir does nothing: NTFS journals names itself, and directories cannot be flushed.
func (osFS) SyncDir(string) error { return nil }

// Not in package syscall.
const (
	errorTooManyOpenFiles  = syscall.Errno(4)
	errorNotEnoughMemory   = syscall.Errno(8)
	errorHandleDiskFull    = syscall.Errno(39)
	errorDiskFull          = syscall.Errno(112)
	errorDiskQuotaExceeded = syscall.Errno(1295)
	errorNoSystemResources = syscall.Errno(1450)
)

// isPassing reports whether the host is short of something, or somebody such as a virus scanner has the file open, which means
// nothing for what the disk holds.
func isPassing(err error) bool {
	return errors.Is(err, errorTooManyOpenFiles) || errors.Is(err, errorNotEnoughMemory) ||
		errors.Is(err, errorNoSystemResources) || errors.Is(err, errorSharingViolation)
}

func isNoSpace(err error) bool {
	return errors.Is(err, errorDiskFull) || errors.Is(err, errorHandleDiskFull) ||
		errors.Is(err, errorDiskQuotaExceeded)
}

func spaceOf(dir string) diskSpace {
	path, err := windows.UTF16PtrFromString(dir)
	if err != nil {
		return diskSpace{}
	}
	var free, total uint64
	if err := windows.GetDiskFreeSpaceEx(path, &free, &total, nil); err != nil {
		return diskSpace{}
	}
	return diskSpace{free: int64(min(free, math.MaxInt64)), total: int64(min(total, math.MaxInt64))}
}
