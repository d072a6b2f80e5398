package process

import (
	"errors"
	"fmt"
	"io/fs"
	"runtime"

	"golang.org/x/sys/windows"
)

func classify(spec *Spec, err error) *StartError {
	hint, kind := kindOf(spec, err)
	return &StartError{Path: spec.Path, Kind: kind, Hint: hint, Err: err}
}

func kindOf(spec *Spec, err error) (hint string, kind error) {
	var path *fs.PathError
	if errors.Is(err, windows.ERROR_DIRECTORY) || errors.As(err, &path) && path.Op == "chdir" {
		return "create " + spec.Dir + " and let this user enter it", ErrDir
	}
	switch {
	case errors.Is(err, windows.ERROR_FILE_NOT_FOUND), errors.Is(err, windows.ERROR_PATH_NOT_FOUND):
		return "install it or correct the path", ErrBinaryNotFound
	case errors.Is(err, windows.ERROR_ACCESS_DENIED):
		return "check the file's access list and application control policies", ErrPermission
	case errors.Is(err, windows.ERROR_VIRUS_INFECTED):
		return "the antivirus blocks it: allow the file there", ErrPermission
	case errors.Is(err, windows.ERROR_BAD_EXE_FORMAT), errors.Is(err, windows.ERROR_EXE_MACHINE_TYPE_MISMATCH):
		return fmt.Sprintf("install the build for windows/%s", runtime.GOARCH), ErrNotExecutable
	case errors.Is(err, windows.ERROR_SHARING_VIOLATION):
		return "close the file before starting it, and replace binaries by rename", ErrTextBusy
	case errors.Is(err, windows.ERROR_NOT_ENOUGH_MEMORY), errors.Is(err, windows.ERROR_NO_SYSTEM_RESOURCES):
		return "free memory, or run fewer instances", ErrResources
	}
	return "", ErrStart
}
