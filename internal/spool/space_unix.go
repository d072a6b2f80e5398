//go:build !windows

package spool

import (
	"math"

	"golang.org/x/sys/unix"
)

func spaceOf(dir string) diskSpace {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return diskSpace{}
	}
	bytes := func(blocks float64) int64 { return int64(min(blocks*float64(st.Bsize), math.MaxInt64/2)) }
	return diskSpace{free: bytes(float64(st.Bavail)), total: bytes(float64(st.Blocks))}
}
