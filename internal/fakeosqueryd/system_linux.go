package fakeosqueryd

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"unsafe"
)

// defaultAction restores the kernel's action for a signal, without a core file. The
// standard library has no such call: signal.Reset means the runtime's handling.
func defaultAction(sig syscall.Signal) {
	_ = syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{})
	var action [8]uintptr // struct sigaction is smaller; zeros are SIG_DFL
	const maskSize = 8
	//nolint:gosec // G103: the system call takes a pointer
	_, _, _ = syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(&action)), 0, maskSize, 0, 0)
}

// unixAddrSpace is what sockaddr_un has for a path, its final 0 included.
const unixAddrSpace = 108

// processTable reads /proc. A process that ends meanwhile is left out.
func processTable() rows {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	var out rows
	for _, dir := range dirs {
		if row := processRow(dir); row != nil {
			out = append(out, row)
		}
	}
	return out
}

func processRow(dir string) map[string]string {
	raw, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return nil
	}
	stat := string(raw)
	open, end := strings.IndexByte(stat, '('), strings.LastIndexByte(stat, ')')
	if open < 0 || end < open {
		return nil
	}
	f := strings.Fields(stat[end+1:])
	if len(f) < 22 {
		return nil
	}
	cmdline, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
	path, _ := os.Readlink(filepath.Join(dir, "exe"))
	return map[string]string{
		"pid": filepath.Base(dir), "name": stat[open+1 : end], "path": path, "state": f[0], "parent": f[1],
		"cmdline":   strings.TrimSpace(strings.ReplaceAll(string(cmdline), "\x00", " ")),
		"user_time": ticks(f[11]), "system_time": ticks(f[12]), "threads": f[17], "total_size": f[20],
		"resident_size": pages(f[21]), "uid": "0", "gid": "0", "start_time": "0",
	}
}

// ticks are hundredths of a second; the column is in milliseconds.
func ticks(s string) string {
	n, _ := strconv.ParseInt(s, 10, 64)
	return strconv.FormatInt(n*10, 10)
}

func pages(s string) string {
	n, _ := strconv.ParseInt(s, 10, 64)
	return strconv.FormatInt(n*int64(os.Getpagesize()), 10)
}
