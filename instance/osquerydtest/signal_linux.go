package osquerydtest

import (
	"syscall"
	"unsafe"
)

// defaultAction gives a signal back to the kernel, without a core file. The
// standard library has no such call: signal.Reset means the runtime's handling.
func defaultAction(sig syscall.Signal) {
	_ = syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{})
	var action [8]uintptr // struct sigaction is smaller; zeros are SIG_DFL
	const maskSize = 8
	//nolint:gosec // G103: the system call takes a pointer
	_, _, _ = syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(&action)), 0, maskSize, 0, 0)
}
