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
	hint, kind := kindOf(spec, err)
	return &StartError{Path: spec.Path, Kind: kind, Hint: hint, Err: err}
}

func kindOf(spec *Spec, err error) (hint string, kind error) {
	switch {
	case !usableDir(spec.Dir):
		return "create " + spec.Dir + " and let this user enter it", ErrDir
	case errors.Is(err, unix.ENOENT):
		return notFound(spec.Path)
	case errors.Is(err, unix.ENOTDIR):
		return "a part of the path is not a directory", ErrBinaryNotFound
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return permissionHint(spec.Path), ErrPermission
	case isWrongFormat(err):
		return fmt.Sprintf("install the build for %s/%s", runtime.GOOS, runtime.GOARCH), ErrNotExecutable
	case errors.Is(err, unix.ETXTBSY):
		return "close the file before starting it, and replace binaries by rename", ErrTextBusy
	case isExhausted(err):
		return "raise the limits on processes and open files, or run fewer instances", ErrResources
	}
	return "", ErrStart
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
func notFound(path string) (hint string, kind error) {
	if _, err := os.Stat(path); err == nil {
		return "the file exists, but the loader or interpreter it names does not (another libc?)", ErrNotExecutable
	}
	return "install it or correct the path", ErrBinaryNotFound
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
