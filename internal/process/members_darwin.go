package process

import (
	"bytes"
	"errors"
	"path/filepath"

	"golang.org/x/sys/unix"
)

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

// ending would say that a process is on its way out, which macOS is not asked.
func ending(int) bool { return false }

func resolved(path string) string {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return filepath.Clean(path)
	}
	return real
}
