package process

import (
	"errors"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

func (c *container) sysAttr(spec *Spec) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setpgid: true}
	if !spec.NoParentDeathSignal {
		attr.Pdeathsig = syscall.SIGKILL
	}
	return attr
}

func pinThread() (unpin func()) {
	runtime.LockOSThread()
	return runtime.UnlockOSThread
}

// awaitEnd returns when the child has ended, and leaves it to be reaped.
func awaitEnd(child *os.Process, _ Identity) error {
	for {
		err := unix.Waitid(unix.P_PID, child.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
