package bench

import (
	"os"

	"golang.org/x/sys/unix"
)

// flush is the least that makes a write durable.
func flush(f *os.File) error { return unix.Fdatasync(int(f.Fd())) }
