package spool

import (
	"errors"
	"fmt"
	"os"
	"syscall"
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
