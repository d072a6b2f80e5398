package runtime

import (
	"errors"

	"github.com/osqvisor/osqvisor/instance"
)

// Errors that the methods of a Runner return, wrapped with the id.
var (
	// ErrRunning says that Run is under way already.
	ErrRunning = errors.New("the runner is running already")
	// ErrNotFound says that no instance has this id.
	ErrNotFound = errors.New("there is no such instance")
	// ErrExists says that an instance has this id already.
	ErrExists = errors.New("there is an instance of that id already")
	// ErrSharedDirectory says that two instances would have the same directory.
	ErrSharedDirectory = errors.New("another instance has that directory")
	// ErrSharedSocket says that two instances would have the same socket, or one that
	// begins with the other's path and a dot, which osqueryd would delete.
	ErrSharedSocket = errors.New("another instance has that socket")
	// ErrParked says that the instance failed too often, or in a way that starting it
	// again soon cannot help, and is down for a while; see RestartPolicy.ParkFor.
	ErrParked = instance.ErrParked
	// ErrNotParked says that there is nothing to resume.
	ErrNotParked = errors.New("the instance is not parked")
)
