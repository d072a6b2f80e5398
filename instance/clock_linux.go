package instance

import (
	"time"

	"golang.org/x/sys/unix"
)

// systemClock compares the clock that goes on in a sleep with the one that does not. Neither
// can be set.
func systemClock() clock {
	running := readClock(unix.CLOCK_MONOTONIC)
	var now unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &now) != nil {
		return sleepClock(running, running) // no sleep shows
	}
	return sleepClock(readClock(unix.CLOCK_BOOTTIME), running)
}

// readClock is for clocks that are there.
func readClock(id int32) func() time.Duration {
	return func() time.Duration {
		var now unix.Timespec
		_ = unix.ClockGettime(id, &now) // 0, of a clock that was there
		return time.Duration(now.Nano())
	}
}
