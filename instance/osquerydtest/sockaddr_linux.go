package osquerydtest

import "syscall"

func unixAddrSpace() [108]int8 { return syscall.RawSockaddrUnix{}.Path }
