package process

import (
	"os"

	"golang.org/x/sys/unix"
)

// tether is a pipe that nobody writes to. The host alone holds the write end, the child and its descendants inherit the
// read end. Armed, the kernel sends SIGKILL to the child's process group as soon as the last write end is closed, which
// the death of the host does, however it dies. The kernel keeps the group itself, not its number, so a later group
// with the same number is never meant.
type tether struct {
	read, write *os.File
	ok          bool
}

func newTether() (*tether, error) {
	var ends [2]int
	// Raw and blocking, unlike os.Pipe: the poller has no business with a pipe that is never read.
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
		return nil, err
	}
	return &tether{
		read:  os.NewFile(uintptr(ends[0]), "tether-child"),
		write: os.NewFile(uintptr(ends[1]), "tether-host"),
	}, nil
}

func (t *tether) childFiles() []*os.File {
	if t == nil {
		return nil
	}
	return []*os.File{t.read}
}

// arm sets what belongs to the open pipe, not to the descriptor, so it holds for the child's inherited end; the host's
// copy of that end is of no more use.
func (t *tether) arm(pgid int) {
	if t == nil {
		return
	}
	defer t.read.Close()
	fd := t.read.Fd()
	flags, err := unix.FcntlInt(fd, unix.F_GETFL, 0)
	if err == nil {
		_, err = unix.FcntlInt(fd, unix.F_SETSIG, int(unix.SIGKILL))
	}
	if err == nil {
		_, err = unix.FcntlInt(fd, unix.F_SETOWN, -pgid)
	}
	if err == nil {
		_, err = unix.FcntlInt(fd, unix.F_SETFL, flags|unix.O_ASYNC)
	}
	t.ok = err == nil
}

func (t *tether) armed() bool { return t != nil && t.ok }

// close ends the tether, and with it whoever is still left in the group.
func (t *tether) close() {
	if t == nil {
		return
	}
	closeAll(t.read, t.write)
}
