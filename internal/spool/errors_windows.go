package spool

import (
	"errors"
	"syscall"
)

// Not in package syscall.
const (
	errorTooManyOpenFiles  = syscall.Errno(4)
	errorNotEnoughMemory   = syscall.Errno(8)
	errorHandleDiskFull    = syscall.Errno(39)
	errorDiskFull          = syscall.Errno(112)
	errorDiskQuotaExceeded = syscall.Errno(1295)
	errorNoSystemResources = syscall.Errno(1450)
)

// isPassing says that the host is short of something, or that somebody such as a virus scanner has the file open, which says
// nothing about what the disk holds.
func isPassing(err error) bool {
	return errors.Is(err, errorTooManyOpenFiles) || errors.Is(err, errorNotEnoughMemory) ||
		errors.Is(err, errorNoSystemResources) || errors.Is(err, errorSharingViolation)
}

func isNoSpace(err error) bool {
	return errors.Is(err, errorDiskFull) || errors.Is(err, errorHandleDiskFull) ||
		errors.Is(err, errorDiskQuotaExceeded)
}
