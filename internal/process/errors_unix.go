//go:build unix

package process

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

func classify(spec *Spec, err error) *StartError {
	kind, hint := kindOf(spec, err)
	return &StartError{Path: spec.Path, Kind: kind, Hint: hint, Err: err}
}

func kindOf(spec *Spec, err error) (kind error, hint string) {
	switch {
	case !usableDir(spec.Dir):
		return ErrDir, "create " + spec.Dir + " and let this user enter it"
	case errors.Is(err, unix.ENOENT):
		return notFound(spec.Path)
	case errors.Is(err, unix.ENOTDIR):
		return ErrBinaryNotFound, "a part of the path is not a directory"
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return ErrPermission, permissionHint(spec.Path)
	case isWrongFormat(err):
		return ErrNotExecutable, fmt.Sprintf("install the build for %s/%s", runtime.GOOS, runtime.GOARCH)
	case errors.Is(err, unix.ETXTBSY):
		return ErrTextBusy, "close the file before starting it, and replace binaries by rename"
	case isExhausted(err):
		return ErrResources, "raise the limits on processes and open files, or run fewer instances"
	}
	return ErrStart, ""
}

// usableDir is asked after a failure, because the kernel's error does not tell the directory from the binary.
func usableDir(dir string) bool {
	return dir == "" || unix.Access(dir, unix.X_OK) == nil && isDir(dir)
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// notFound tells a missing binary from a missing loader: the kernel says "no such file" of both.
func notFound(path string) (kind error, hint string) {
	if _, err := os.Stat(path); err == nil {
		return ErrNotExecutable, "the file exists, but the loader or interpreter it names does not (another libc?)"
	}
	return ErrBinaryNotFound, "install it or correct the path"
}

func permissionHint(path string) string {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return "let this user enter the directories above it"
	case info.IsDir():
		return "it is a directory"
	case info.Mode().Perm()&0o111 == 0:
		return fmt.Sprintf("its mode is %v: make it executable", info.Mode().Perm())
	}
	return fmt.Sprintf("its mode is %v: check its owner, a noexec mount and security modules", info.Mode().Perm())
}

func isExhausted(err error) bool {
	return errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ENOMEM) ||
		errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE)
}
