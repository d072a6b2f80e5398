package process

import (
	"errors"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// stateZombie is SZOMB of <sys/proc.h>.
const stateZombie = 5

func probe(pid int) (procInfo, error) {
	if pid <= 0 {
		return procInfo{}, ErrNotFound
	}
	// The slice form tells "no such process" (empty) from a failing call.
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

// signalProcess checks immediately before it signals: macOS has no descriptor of a process to hold on to.
func signalProcess(id Identity, sig os.Signal) error {
	number, err := signalNumber(sig)
	if err != nil {
		return err
	}
	if !id.proven() {
		return ErrNotFound
	}
	return gone(unix.Kill(id.PID, number))
}

// signalGroup signals the group that id leads. EPERM is what macOS says of a group in which only zombies are left.
func signalGroup(id Identity, number syscall.Signal) error {
	info, err := probe(id.PID)
	if err != nil || info.id != id {
		return ErrNotFound
	}
	err = unix.Kill(-id.PID, number)
	if errors.Is(err, unix.EPERM) && info.zombie {
		return nil
	}
	return gone(err)
}
