package instance

import (
	"context"
	"errors"
	"os"
)

// Conditions are what a start depends on outside of the instance, at one moment. A
// supervisor compares two of them, to start again at once when what stood in the way of a
// start has changed.
type Conditions struct {
	// Binary stands for the file that the next run starts; it is another when that file
	// was exchanged or changed, and empty when there is none.
	Binary string
	// Free is the room in bytes that the file system of the instance's directory has for
	// this user; -1 when it is not known.
	Free int64
}

// errLooking says that the disk has not answered yet.
var errLooking = errors.New("an earlier look at the binary and the directory has not returned")

// Conditions looks at the binary and at the room in the directory, by two system calls.
// They have until ctx ends: a file system may hang. It fails then, and until they returned.
func (in *Instance) Conditions(ctx context.Context) (Conditions, error) {
	select {
	case in.looking <- struct{}{}:
	default:
		return Conditions{}, errLooking
	}
	found := make(chan Conditions, 1)
	path, dir := in.Binary().Path, in.paths.dir
	go func() { // it ends when the system answers
		defer func() { <-in.looking }()
		found <- Conditions{Binary: identityOf(path), Free: freeRoom(dir)}
	}()
	select {
	case c := <-found:
		return c, nil
	case <-ctx.Done():
		return Conditions{}, context.Cause(ctx)
	}
}

func identityOf(path string) string {
	info, err := os.Stat(path)
	if err != nil {
		return ""
	}
	return fileIdentity(info)
}
