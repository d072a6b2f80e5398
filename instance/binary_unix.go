//go:build unix

package instance

import (
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// checkBinaryMode holds what osqueryd demands of its own binary before its
// watchdog starts a worker, so that the reason is known before the start.
func checkBinaryMode(path string, info fs.FileInfo) error {
	mode := info.Mode()
	if mode.Perm()&0o111 == 0 {
		return fmt.Errorf("%s is not executable; chmod +x it", path)
	}
	if mode.Perm()&0o002 != 0 {
		return fmt.Errorf("%s can be written by everyone; chmod o-w it", path)
	}
	if uid, ok := ownerOf(info); ok && uid != 0 && uid != os.Geteuid() {
		return fmt.Errorf("%s belongs to user %d; it must belong to root or to the user that runs it (%d)",
			path, uid, os.Geteuid())
	}
	if err := checkSticky(path); err != nil {
		return err
	}
	return checkReplaceable(path)
}

// checkSticky leaves links alone: where they lie is nothing to osqueryd, which looks at
// where it is itself.
func checkSticky(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	dir, err := os.Stat(filepath.Dir(path))
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeSymlink == 0 && dir.Mode()&fs.ModeSticky != 0 {
		return fmt.Errorf("%s lies in a sticky directory, as /tmp is, which osqueryd refuses; move it", path)
	}
	return nil
}

// fileIdentity changes with the file, its content, its mode and its owner.
func fileIdentity(info fs.FileInfo) string {
	id := fmt.Sprintf("%d %d %v", info.Size(), info.ModTime().UnixNano(), info.Mode())
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		id += fmt.Sprintf(" %d %d %d %d", st.Dev, st.Ino, st.Uid, st.Gid)
	}
	return id
}

// freeRoom is -1 when the system does not tell.
func freeRoom(dir string) int64 {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return -1
	}
	if st.Files > 0 && st.Ffree == 0 {
		return 0 // no file can be made
	}
	free := float64(st.Bavail) * float64(st.Bsize) // whose types differ between systems
	return int64(min(free, math.MaxInt64/2))
}

func ownerOf(info fs.FileInfo) (uid int, ok bool) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return int(st.Uid), true
}
