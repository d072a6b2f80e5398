//go:build !windows && !linux

package osquerydtest

import "syscall"

func unixAddrSpace() [104]int8 { return syscall.RawSockaddrUnix{}.Path }
