//go:build unix

package instance

import (
	"testing"

	"golang.org/x/sys/unix"
)

func wants() []error { return []error{unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.ENOSPC, unix.EDQUOT} }

func TestTrial14FullDisk(t *testing.T) {
	if diskFull(t.TempDir()) {
		t.Error("the disk of the tests is full")
	}
	if !diskFull("/proc") && !diskFull("/dev/fd") { // a file system without room, on Linux and on macOS
		t.Error("a file system that has no room is not full")
	}
}
