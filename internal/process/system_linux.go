package process

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
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
		case collect(m.id):
			zombies++ // or was one; the next round finds out
		}
	}
	return zombies, running
}

// collect waits for a zombie, and reports whether it is a child of this host, which alone can do so.
func collect(id Identity) (ours bool) {
	err := withPidfd(id, func(fd int) error {
		if fd < 0 {
			return unix.Waitid(unix.P_PID, id.PID, nil, unix.WEXITED|unix.WNOHANG, nil)
		}
		return unix.Waitid(unix.P_PIDFD, fd, nil, unix.WEXITED|unix.WNOHANG, nil)
	})
	return err == nil
}

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

// Positions in /proc/PID/stat, counted from the state, which is the first field after the parenthesised name.
const (
	statState   = 0
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
	state := fields[statState][0]
	// A first thread that is dead means nothing while others are left: they still hold the files, and their locks.
	dead := state == 'Z' && len(fields[statThreads]) == 1 && fields[statThreads][0] <= '1'
	return procInfo{
		id:     Identity{PID: pid, StartTime: boot + ":" + string(fields[statStart])},
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

// killProcess first opens a descriptor of the process and then checks the identity: what the check proves, the
// descriptor keeps, so the pid cannot change hands in between.
func killProcess(id Identity) error {
	return withPidfd(id, func(fd int) error {
		if fd < 0 {
			return gone(unix.Kill(id.PID, unix.SIGKILL))
		}
		return gone(unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0))
	})
}

// killGroup kills the group that id leads; the caller has proven or holds id. Before Linux 6.9 the kernel does not
// signal groups by descriptor.
func killGroup(id Identity) error {
	return withPidfd(id, func(fd int) error {
		if fd >= 0 {
			err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, unix.PIDFD_SIGNAL_PROCESS_GROUP)
			if err == nil || errors.Is(err, unix.ESRCH) {
				return gone(err)
			}
		}
		return gone(unix.Kill(-id.PID, unix.SIGKILL))
	})
}

// withPidfd calls f with a descriptor of the proven process, or with -1 where the kernel or a sandbox has none.
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

// maxEnviron bounds how much of a process's environment is looked at, in bytes; Linux's usual limit is 2 MiB with argv.
const maxEnviron = 2 << 20

// groupMembers lists the members of a group that run.
func groupMembers(pgid int) ([]procInfo, error) {
	all, err := groupWithZombies(pgid)
	return slices.DeleteFunc(all, func(m procInfo) bool { return m.zombie }), err
}

// groupWithZombies lists all members of a group. The kernel offers no shorter way than all of /proc.
func groupWithZombies(pgid int) ([]procInfo, error) {
	if groupEmpty(pgid) {
		return nil, nil
	}
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	return inGroup(names, pgid), nil
}

// inGroup passes over processes that vanish meanwhile or may not be read.
func inGroup(names []string, pgid int) []procInfo {
	var members []procInfo
	boot := bootID()
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		info, err := probeIn(boot, pid)
		if err == nil && info.pgid == pgid {
			members = append(members, info)
		}
	}
	return members
}

// readMark returns the value of RunEnv that the process was executed with.
func readMark(pid int) (mark string, ok bool) {
	file, err := os.Open("/proc/" + strconv.Itoa(pid) + "/environ")
	if err != nil {
		return "", false
	}
	defer file.Close()
	raw, err := io.ReadAll(io.LimitReader(file, maxEnviron))
	if err != nil {
		return "", false
	}
	return findMark(raw)
}

func findMark(environ []byte) (mark string, ok bool) {
	for entry := range bytes.SplitSeq(environ, []byte{0}) {
		if value, found := bytes.CutPrefix(entry, []byte(RunEnv+"=")); found {
			return string(value), true
		}
	}
	return "", false
}

// runsBinary compares the file itself first, and then its name: after an update the old file is deleted, yet still runs.
// Known is false when the process does not let itself be looked at.
func runsBinary(pid int, binary string) (same, known bool) {
	link := "/proc/" + strconv.Itoa(pid) + "/exe"
	running, err := os.Stat(link)
	if err != nil {
		return false, false
	}
	if leased, err := os.Stat(binary); err == nil && os.SameFile(running, leased) {
		return true, true
	}
	name, err := os.Readlink(link)
	if err != nil {
		return false, false
	}
	return strings.TrimSuffix(name, " (deleted)") == resolved(binary), true
}

// ending reports whether every thread of a process is on its way out. Such a process has lost its environment and its binary,
// and has its files, and their locks, until the kernel has taken its memory back: 10 ms for each 100 MB, more when it is busy.
func ending(pid int) bool {
	dir := "/proc/" + strconv.Itoa(pid) + "/task/"
	threads, err := os.ReadDir(dir)
	if err != nil {
		return errors.Is(err, fs.ErrNotExist)
	}
	for _, thread := range threads {
		raw, err := os.ReadFile(dir + thread.Name() + "/stat")
		if err == nil && !exiting(raw) {
			return false
		}
	}
	return true
}

func exiting(stat []byte) bool {
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) <= statFlags {
		return false
	}
	flags, err := strconv.ParseUint(string(fields[statFlags]), 10, 64)
	return err == nil && flags&flagExiting != 0
}

func resolved(path string) string {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return filepath.Clean(path)
	}
	return real
}

// isWrongFormat includes ELIBBAD, which some loaders' files answer for a binary of another architecture.
func isWrongFormat(err error) bool {
	return errors.Is(err, unix.ENOEXEC) || errors.Is(err, unix.ELIBBAD)
}
