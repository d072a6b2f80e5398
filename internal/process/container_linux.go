package process

import (
	"context"
	"errors"
	"os"
	"runtime"
	"syscall"
	"time"
	"unsafe"

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

// orphanWait bounds how long the end of a child is held back for what it left in its group, which was killed.
const orphanWait = time.Second

// collectOrphans waits for what the child left in its group where this host inherits it, as PID 1 of a container and a
// subreaper do; nobody else would, and each would stay a zombie. It must be called while the leader is a zombie: then its
// group number is ours, and no other child of the host can have it.
func collectOrphans(leader Identity) {
	if !inheritsOrphans() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), orphanWait)
	defer cancel()
	_ = waitUntil(ctx, func() bool { // those that take longer are WaitGroupGone's
		zombies, running := collectGroup(leader, false)
		return zombies+running == 0
	})
}

// lateOrphans counts those that ended after collectOrphans, or whose leader it was not called for, and waits for each.
func lateOrphans(leader Identity, withLeader bool) int {
	if info, err := probe(leader.PID); err == nil && info.id != leader {
		return 0 // our group was empty at some time, so who is in it now is a stranger
	}
	zombies, _ := collectGroup(leader, withLeader)
	return zombies
}

func inheritsOrphans() bool {
	if os.Getpid() == 1 {
		return true
	}
	var is int32
	err := unix.Prctl(unix.PR_GET_CHILD_SUBREAPER, uintptr(unsafe.Pointer(&is)), 0, 0, 0) //nolint:gosec // prctl wants an address
	return err == nil && is != 0
}

// collectGroup waits for every zombie in the leader's group that is a child of this host, and counts them and those that run.
// The leader's own end is for whoever started it to see, unless withLeader.
func collectGroup(leader Identity, withLeader bool) (zombies, running int) {
	members, err := groupWithZombies(leader.PID)
	if err != nil {
		return 0, 0
	}
	for _, m := range members {
		switch {
		case m.id == leader && !withLeader, !startedNotBefore(m.id.StartTime, leader.StartTime):
		case !m.zombie:
			running++
		case m.parent == os.Getpid():
			zombies++
			collect(m.id) // one that could not be is counted again in the next round
		}
	}
	return zombies, running
}

func collect(id Identity) {
	_ = withPidfd(id, func(fd int) error {
		if fd < 0 {
			return unix.Waitid(unix.P_PID, id.PID, nil, unix.WEXITED|unix.WNOHANG, nil)
		}
		return unix.Waitid(unix.P_PIDFD, fd, nil, unix.WEXITED|unix.WNOHANG, nil)
	})
}
