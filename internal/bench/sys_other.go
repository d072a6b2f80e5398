//go:build !unix

package bench

import (
	"syscall"
	"time"
)

func ownGroup() *syscall.SysProcAttr { return nil }

func killGroup(pid int) error { return killPID(pid) }

func cpuTime() time.Duration { return 0 }
