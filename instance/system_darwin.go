package instance

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/osqvisor/osqvisor/internal/control"
)

// systemClock compares the clock that goes on in a sleep with the one that does not. Neither
// can be set.
func systemClock() control.Clock {
	return sleepClock(readClock(unix.CLOCK_MONOTONIC_RAW), readClock(unix.CLOCK_UPTIME_RAW))
}

func readClock(id int32) func() time.Duration {
	return func() time.Duration {
		var now unix.Timespec
		_ = unix.ClockGettime(id, &now) // both are there since macOS 10.12
		return time.Duration(now.Nano())
	}
}

// oomKills is 0: nothing counts them.
func oomKills() uint64 { return 0 }

// hasThread would report whether a thread belongs to a process, which these systems do not show.
func hasThread(int, uint64) bool { return true }
