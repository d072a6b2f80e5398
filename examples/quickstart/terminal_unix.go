//go:build unix

package main

import (
	"os"

	"golang.org/x/sys/unix"
)

// terminalWidth says whether f is a terminal that can be drawn on, and how many
// columns it has.
func terminalWidth(f *os.File) (columns int, ok bool) {
	if os.Getenv("TERM") == "dumb" {
		return 0, false
	}
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0, false
	}
	return int(size.Col), true
}
