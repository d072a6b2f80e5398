//go:build !windows

package osquerydtest

import (
	"os"
	"path/filepath"
	"syscall"
)

// installBinary puts this program at path.
func installBinary(self, path string, copied bool) error {
	if !copied {
		return os.Symlink(self, path)
	}
	return linkOrCopy(self, path)
}

// safeBinary: executable, owned by root or by us, not writable by all, and not
// in a directory like /tmp.
func safeBinary(path string) bool {
	dir, err := os.Stat(filepath.Dir(path))
	if err != nil || dir.Mode()&os.ModeSticky != 0 {
		return false
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode()&0o111 == 0 || info.Mode()&0o002 != 0 {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return !ok || st.Uid == 0 || int(st.Uid) == os.Getuid()
}
