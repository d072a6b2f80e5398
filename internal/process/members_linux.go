package process

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

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
