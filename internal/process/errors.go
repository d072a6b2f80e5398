package process

import (
	"errors"
	"fmt"
)

// The kinds of a StartError.
var (
	// ErrSpec says that the Spec itself is unusable.
	ErrSpec = errors.New("unusable process spec")
	// ErrBinaryNotFound says that the binary does not exist.
	ErrBinaryNotFound = errors.New("binary not found")
	// ErrPermission says that the operating system refuses to execute the binary.
	ErrPermission = errors.New("binary may not be executed")
	// ErrNotExecutable says that the file is no program for this machine.
	ErrNotExecutable = errors.New("binary cannot run on this machine")
	// ErrTextBusy says that the binary stayed open for writing through all retries.
	ErrTextBusy = errors.New("binary is being written to")
	// ErrDir says that the working directory is unusable.
	ErrDir = errors.New("working directory is unusable")
	// ErrResources says that the machine or a limit has no process, memory or descriptor left.
	ErrResources = errors.New("out of processes, memory or descriptors")
	// ErrStart is the kind of every other failure.
	ErrStart = errors.New("process could not be started")
)

// StartError says why a process could not be started and what to do. errors.Is matches both Kind and Err.
type StartError struct {
	// Path is the binary.
	Path string
	// Kind is one of the sentinels of this package, such as ErrBinaryNotFound.
	Kind error
	// Hint says what to do; it may be empty.
	Hint string
	// Err is the operating system's error; it may be nil.
	Err error
}

// Error returns kind, path, cause and hint in one line.
func (e *StartError) Error() string {
	text := fmt.Sprintf("start %s: %v", e.Path, e.Kind)
	if e.Err != nil {
		text += fmt.Sprintf(" (%v)", e.Err)
	}
	if e.Hint != "" {
		text += ": " + e.Hint
	}
	return text
}

// Unwrap returns Kind and, when there is one, Err.
func (e *StartError) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Kind}
	}
	return []error{e.Kind, e.Err}
}
