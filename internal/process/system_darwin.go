package process

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

func (c *container) sysAttr(*Spec) *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

func pinThread() (unpin func()) { return func() {} }

// awaitEnd returns when the child has ended, and leaves it to be reaped. macOS has no dependable waitid, so a kernel
// queue reports the end; should that fail, the state is looked at every 50 ms.
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
		got := make([]unix.Kevent_t, 1)
		n, err := unix.Kevent(queue, []unix.Kevent_t{note}, got, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err == nil && n == 0 {
			return errors.New("no event")
		}
		return errors.Join(err, refusal(got[0]))
	}
}

// refusal returns the error of a queue that will not watch; the kernel reports that as an event, like the end. That there is no
// such process is the end.
func refusal(ev unix.Kevent_t) error {
	if errno := unix.Errno(ev.Data); ev.Flags&unix.EV_ERROR != 0 && errno != unix.ESRCH {
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

// stateZombie is SZOMB of <sys/proc.h>.
const stateZombie = 5

func probe(pid int) (procInfo, error) {
	if pid <= 0 {
		return procInfo{}, ErrNotFound
	}
	// The slice form distinguishes "no such process" (empty) from a failing call.
	found, err := unix.SysctlKinfoProcSlice("kern.proc.pid", pid)
	if errors.Is(err, unix.ESRCH) || err == nil && len(found) == 0 {
		return procInfo{}, ErrNotFound
	}
	if err != nil {
		return procInfo{}, err
	}
	return fromKinfo(&found[0]), nil
}

func fromKinfo(k *unix.KinfoProc) procInfo {
	micros := k.Proc.P_starttime.Sec*1e6 + int64(k.Proc.P_starttime.Usec)
	return procInfo{
		id:     Identity{PID: int(k.Proc.P_pid), StartTime: strconv.FormatInt(micros, 10)},
		pgid:   int(k.Eproc.Pgid),
		zombie: k.Proc.P_stat == stateZombie,
	}
}

// startedNotBefore reports whether a started at the same time as b or later.
func startedNotBefore(a, b string) bool {
	x, errA := strconv.ParseInt(a, 10, 64)
	y, errB := strconv.ParseInt(b, 10, 64)
	return errA == nil && errB == nil && x >= y
}

// killProcess checks immediately before it signals: macOS has no descriptor of a process to hold on to.
func killProcess(id Identity) error {
	if !id.proven() {
		return ErrNotFound
	}
	return gone(unix.Kill(id.PID, unix.SIGKILL))
}

// killGroup kills the group that id leads. EPERM is what macOS returns for a group in which only zombies are left.
func killGroup(id Identity) error {
	info, err := probe(id.PID)
	if err != nil || info.id != id {
		return ErrNotFound
	}
	err = unix.Kill(-id.PID, unix.SIGKILL)
	if errors.Is(err, unix.EPERM) && info.zombie {
		return nil
	}
	return gone(err)
}

// groupMembers lists the members of a group that run.
func groupMembers(pgid int) ([]procInfo, error) {
	if groupEmpty(pgid) {
		return nil, nil
	}
	found, err := unix.SysctlKinfoProcSlice("kern.proc.pgrp", pgid)
	if errors.Is(err, unix.ESRCH) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var members []procInfo
	for i := range found {
		if info := fromKinfo(&found[i]); !info.zombie && info.pgid == pgid {
			members = append(members, info)
		}
	}
	return members, nil
}

// procArgs returns the path a process was executed by, and the raw block of its arguments and environment.
func procArgs(pid int) (path string, block []byte, ok bool) {
	raw, err := unix.SysctlRaw("kern.procargs2", pid)
	const countSize = 4 // an int32 count of arguments comes first
	if err != nil || len(raw) <= countSize {
		return "", nil, false
	}
	name, rest, ok := bytes.Cut(raw[countSize:], []byte{0})
	return string(name), rest, ok
}

// readMark returns the value of RunEnv that the process was executed with.
func readMark(pid int) (mark string, ok bool) {
	_, block, ok := procArgs(pid)
	if !ok {
		return "", false
	}
	for entry := range bytes.SplitSeq(block, []byte{0}) {
		if value, found := bytes.CutPrefix(entry, []byte(RunEnv+"=")); found {
			return string(value), true
		}
	}
	return "", false
}

// runsBinary compares paths. Known is false when the process does not let itself be looked at.
func runsBinary(pid int, binary string) (same, known bool) {
	path, _, ok := procArgs(pid)
	return ok && resolved(path) == resolved(binary), ok
}

// ending would report that a process is on its way out, which is not looked up on macOS.
func ending(int) bool { return false }

func resolved(path string) string {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return filepath.Clean(path)
	}
	return real
}

// isWrongFormat includes EBADARCH and EBADEXEC, which macOS answers for a binary of another architecture.
func isWrongFormat(err error) bool {
	return errors.Is(err, unix.ENOEXEC) || errors.Is(err, unix.EBADARCH) || errors.Is(err, unix.EBADEXEC)
}
