//go:build unix

package instance

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
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
	return checkSticky(path)
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

func ownerOf(info fs.FileInfo) (uid int, ok bool) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return int(st.Uid), true
}
