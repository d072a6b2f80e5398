package spool

import (
	"math"

	"golang.org/x/sys/windows"
)

func spaceOf(dir string) diskSpace {
	path, err := windows.UTF16PtrFromString(dir)
	if err != nil {
		return diskSpace{}
	}
	var free, total uint64
	if err := windows.GetDiskFreeSpaceEx(path, &free, &total, nil); err != nil {
		return diskSpace{}
	}
	return diskSpace{free: int64(min(free, math.MaxInt64)), total: int64(min(total, math.MaxInt64))}
}
