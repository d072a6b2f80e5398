package instance

import (
	"fmt"
	"io/fs"
	"math"
	"path/filepath"
	"strings"

	"golang.org/x/sys/windows"
)

// checkBinaryMode looks at the name only: who may write the file is told by
// access lists, which osqueryd checks itself.
func checkBinaryMode(path string, _ fs.FileInfo) error {
	if !strings.EqualFold(filepath.Ext(path), ".exe") {
		return fmt.Errorf("%s is not an .exe", path)
	}
	return nil
}

// fileIdentity changes with the file's content.
func fileIdentity(info fs.FileInfo) string {
	return fmt.Sprintf("%d %d %v", info.Size(), info.ModTime().UnixNano(), info.Mode())
}

// freeRoom is -1 when the system does not tell.
func freeRoom(dir string) int64 {
	path, err := windows.UTF16PtrFromString(dir)
	if err != nil {
		return -1
	}
	var free uint64
	if err := windows.GetDiskFreeSpaceEx(path, &free, nil, nil); err != nil {
		return -1
	}
	return int64(min(free, math.MaxInt64))
}
