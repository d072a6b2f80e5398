package process

import (
	"context"
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

func (c *container) sysAttr(*Spec) *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

func pinThread() (unpin func()) { return func() {} }

// awaitEnd returns when the child has ended, and leaves it to be reaped. macOS has no dependable waitid, so a kernel
// queue tells of the end; should that fail, the state is looked at every 50 ms.
func awaitEnd(child *os.Process, id Identity) error {
	if awaitNote(child.Pid) == nil {
		return nil
	}
	return waitUntil(context.Background(), func() bool {
		info, err := probe(id.PID)
		return err == nil && (info.zombie || info.id != id) || errors.Is(err, ErrNotFound)
	})
}

func awaitNote(pid int) error {
	queue, err := unix.Kqueue()
	if err != nil {
		return err
	}
	defer unix.Close(queue)
	unix.CloseOnExec(queue)
	note := unix.Kevent_t{Fflags: unix.NOTE_EXIT}
	unix.SetKevent(&note, pid, unix.EVFILT_PROC, unix.EV_ADD|unix.EV_ONESHOT)
	for {
		told := make([]unix.Kevent_t, 1)
		n, err := unix.Kevent(queue, []unix.Kevent_t{note}, told, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err == nil && n == 0 {
			return errors.New("no event")
		}
		return errors.Join(err, refusal(told[0]))
	}
}

// refusal tells a queue that will not watch from an end: the kernel reports both as an event. That there is no such process
// is the end.
func refusal(told unix.Kevent_t) error {
	if errno := unix.Errno(told.Data); told.Flags&unix.EV_ERROR != 0 && errno != unix.ESRCH {
		return errno
	}
	return nil
}

// tether has no counterpart on macOS: its kernel sends only SIGIO for a closed pipe, which is ignored by default.
type tether struct{}

func newTether() (*tether, error)        { return nil, nil }
func (t *tether) childFiles() []*os.File { return nil }
func (t *tether) arm(int)                {}
func (t *tether) armed() bool            { return false }
func (t *tether) close()                 {}

// collectOrphans and lateOrphans have nothing to do: macOS hands orphans to nobody but its own first process.
func collectOrphans(Identity)        {}
func lateOrphans(Identity, bool) int { return 0 }
