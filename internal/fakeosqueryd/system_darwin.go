package fakeosqueryd

import (
	"syscall"
)

// defaultAction has no counterpart here: SIGQUIT ends a fake with Go's trace.
func defaultAction(syscall.Signal) {}

// unixAddrSpace is what sockaddr_un has for a path, its final 0 included.
const unixAddrSpace = 104
