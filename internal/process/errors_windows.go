package process

import (
	"errors"
	"fmt"
	"io/fs"
	"runtime"

	"golang.org/x/sys/windows"
)

func classify(spec *Spec, err error) *StartError {
	kind, hint := kindOf(spec, err)
	return &StartError{Path: spec.Path, Kind: kind, Hint: hint, Err: err}
}

func kindOf(spec *Spec, err error) (kind error, hint string) {
	var path *fs.PathError
	if errors.Is(err, windows.ERROR_DIRECTORY) || errors.As(err, &path) && path.Op == "chdir" {
		return ErrDir, "create " + spec.Dir + " and let this user enter it"
	}
	switch {
	case errors.Is(err, windows.ERROR_FILE_NOT_FOUND), errors.Is(err, windows.ERROR_PATH_NOT_FOUND):
		return ErrBinaryNotFound, "install it or correct the path"
	case errors.Is(err, windows.ERROR_ACCESS_DENIED):
		return ErrPermission, "check the file's access list and application control policies"
	case errors.Is(err, windows.ERROR_VIRUS_INFECTED):
		return ErrPermission, "the antivirus blocks it: allow the file there"
	case errors.Is(err, windows.ERROR_BAD_EXE_FORMAT), errors.Is(err, windows.ERROR_EXE_MACHINE_TYPE_MISMATCH):
		return ErrNotExecutable, fmt.Sprintf("install the build for windows/%s", runtime.GOARCH)
	case errors.Is(err, windows.ERROR_SHARING_VIOLATION):
		return ErrTextBusy, "close the file before starting it, and replace binaries by rename"
	case errors.Is(err, windows.ERROR_NOT_ENOUGH_MEMORY), errors.Is(err, windows.ERROR_NO_SYSTEM_RESOURCES):
		return ErrResources, "free memory, or run fewer instances"
	}
	return ErrStart, ""
}
