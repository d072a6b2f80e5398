package instance

import (
	"time"
	"unsafe"

	"golang.org/x/sys/windows"
)

// systemClock compares the time since the start, sleep included, with the time that the
// system ran. Neither can be set.
func systemClock() clock {
	unbiased := windows.NewLazySystemDLL("kernel32.dll").NewProc("QueryUnbiasedInterruptTime")
	if unbiased.Find() != nil {
		return sleepClock(windows.DurationSinceBoot, windows.DurationSinceBoot) // no sleep shows
	}
	return sleepClock(windows.DurationSinceBoot, func() time.Duration {
		var ticks uint64 // of 100 ns
		_, _, _ = unbiased.Call(uintptr(unsafe.Pointer(&ticks)))
		return time.Duration(ticks) * 100
	})
}
