package osquerydtest

import "syscall"

// defaultAction has no counterpart here: SIGQUIT ends a fake with Go's trace.
func defaultAction(syscall.Signal) {}
