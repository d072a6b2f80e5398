package process

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Positions in /proc/PID/stat, counted from the state, which is the first field after the parenthesised name.
const (
	statState   = 0
	statParent  = 1
	statPgrp    = 2
	statFlags   = 6
	statThreads = 17
	statStart   = 19
)

// flagExiting is PF_EXITING of <linux/sched.h>.
const flagExiting = 0x4

func probe(pid int) (procInfo, error) { return probeIn(bootID(), pid) }

// probeIn is probe with the boot id read beforehand, for loops over all processes.
func probeIn(boot string, pid int) (procInfo, error) {
	if pid <= 0 {
		return procInfo{}, ErrNotFound
	}
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return procInfo{}, ErrNotFound
	}
	if err != nil {
		return procInfo{}, err
	}
	return parseStat(boot, pid, raw)
}

// parseStat starts behind the last parenthesis, because the name may itself hold blanks and parentheses.
func parseStat(boot string, pid int, raw []byte) (procInfo, error) {
	fields := bytes.Fields(raw[bytes.LastIndexByte(raw, ')')+1:])
	if len(fields) <= statStart {
		return procInfo{}, errors.New("unreadable /proc stat line")
	}
	pgid, err := strconv.Atoi(string(fields[statPgrp]))
	if err != nil {
		return procInfo{}, errors.New("unreadable process group in /proc stat line")
	}
	parent, err := strconv.Atoi(string(fields[statParent]))
	if err != nil {
		return procInfo{}, errors.New("unreadable parent in /proc stat line")
	}
	state := fields[statState][0]
	// A first thread that is dead says nothing while others are left: they still hold the files, and their locks.
	dead := state == 'Z' && len(fields[statThreads]) == 1 && fields[statThreads][0] <= '1'
	return procInfo{
		id:     Identity{PID: pid, StartTime: boot + ":" + string(fields[statStart])},
		parent: parent,
		pgid:   pgid,
		zombie: dead || state == 'X' || state == 'x',
	}, nil
}

// bootID makes start times of different boots differ. Where it cannot be read, the ticks since boot stand alone.
func bootID() string {
	raw, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(raw))
}

// startedNotBefore reports whether a is of the same boot as b and started at the same time or later.
func startedNotBefore(a, b string) bool {
	bootA, ticksA, _ := strings.Cut(a, ":")
	bootB, ticksB, _ := strings.Cut(b, ":")
	x, errA := strconv.ParseUint(ticksA, 10, 64)
	y, errB := strconv.ParseUint(ticksB, 10, 64)
	return errA == nil && errB == nil && bootA == bootB && x >= y
}

// signalProcess first takes a descriptor of the process and then checks the identity: what the check proves, the
// descriptor keeps, so the pid cannot change hands in between.
func signalProcess(id Identity, sig os.Signal) error {
	return withPidfd(id, func(fd int) error {
		number, err := signalNumber(sig)
		if err != nil {
			return err
		}
		if fd < 0 {
			return gone(unix.Kill(id.PID, number))
		}
		return gone(unix.PidfdSendSignal(fd, number, nil, 0))
	})
}

// signalGroup signals the group that id leads; the caller has proven or holds id. Before Linux 6.9 the kernel does not
// signal groups by descriptor.
func signalGroup(id Identity, number syscall.Signal) error {
	return withPidfd(id, func(fd int) error {
		if fd >= 0 {
			err := unix.PidfdSendSignal(fd, number, nil, unix.PIDFD_SIGNAL_PROCESS_GROUP)
			if err == nil || errors.Is(err, unix.ESRCH) {
				return gone(err)
			}
		}
		return gone(unix.Kill(-id.PID, number))
	})
}

// withPidfd calls f with a descriptor of the proven process, or with -1 where the kernel or a sandbox has none to give.
func withPidfd(id Identity, f func(fd int) error) error {
	if id.PID <= 0 {
		return ErrNotFound
	}
	fd, err := unix.PidfdOpen(id.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return ErrNotFound
	}
	if err != nil {
		fd = -1
	} else {
		defer unix.Close(fd)
	}
	if !id.proven() {
		return ErrNotFound
	}
	return f(fd)
}
