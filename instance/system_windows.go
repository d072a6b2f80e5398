package instance

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/windows"

	"github.com/osqvisor/osqvisor/internal/control"
)

// checkBinaryMode looks at the name only: who may write the file is in
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

// freeRoom is -1 when the system does not report it.
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

// outOfResources reports whether an error is of a handle, a process, memory or disk that
// could not be had.
func outOfResources(err error) bool {
	for _, errno := range []error{
		windows.ERROR_TOO_MANY_OPEN_FILES, windows.ERROR_NOT_ENOUGH_MEMORY, windows.ERROR_OUTOFMEMORY,
		windows.ERROR_NO_SYSTEM_RESOURCES, windows.ERROR_DISK_FULL, windows.ERROR_HANDLE_DISK_FULL,
		windows.ERROR_COMMITMENT_LIMIT,
	} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// lockedByAnother reports whether another process has a file open that nobody may share.
func lockedByAnother(path string) bool {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return errors.Is(err, windows.ERROR_SHARING_VIOLATION)
	}
	_ = f.Close() // nothing was written
	return false
}

const pipePrefix = `\\.\pipe\`

// socketPath returns the name of osqueryd's pipe. Pipes live in a name space of
// their own, so there is no directory.
func (o *options) socketPath(dir string) (socket, socketDir string) {
	if o.socket != "" {
		return o.socket, ""
	}
	return pipePrefix + "osqvisor-" + shortID(dir), ""
}

func (o *options) checkSocket(p paths) error {
	if !strings.HasPrefix(p.socket, pipePrefix) {
		return fmt.Errorf("%q is not the name of a pipe, which begins with %s", p.socket, pipePrefix)
	}
	if len(p.socket) > 240 {
		return fmt.Errorf("%s is %d bytes long; at most 240 are allowed", p.socket, len(p.socket))
	}
	return nil
}

// shortID stands for a directory where its path would be too long.
func shortID(dir string) string {
	sum := sha256.Sum256([]byte(dir))
	return hex.EncodeToString(sum[:6])
}

func (p *paths) shortSocket() error { return nil }

func (p *paths) makeSocketDir() error { return nil }

// checkShared leaves it to access lists who may write to a directory.
func checkShared(string) error { return nil }

func checkDirOwner(dir string, info fs.FileInfo) error {
	if !info.IsDir() {
		return fmt.Errorf("%s is not a directory", dir)
	}
	return nil
}

func removeSockets(paths) {}

// systemClock compares the time since the start, sleep included, with the time that the
// system ran. Neither can be set.
func systemClock() control.Clock {
	unbiased := windows.NewLazySystemDLL("kernel32.dll").NewProc("QueryUnbiasedInterruptTime")
	if unbiased.Find() != nil {
		return sleepClock(windows.DurationSinceBoot, windows.DurationSinceBoot) // no sleep shows
	}
	return sleepClock(windows.DurationSinceBoot, func() time.Duration {
		var ticks uint64                                         // of 100 ns
		_, _, _ = unbiased.Call(uintptr(unsafe.Pointer(&ticks))) //nolint:gosec // the call takes an address
		return time.Duration(ticks) * 100
	})
}

// oomKills is 0: nothing counts them.
func oomKills() uint64 { return 0 }

// hasThread would report whether a thread belongs to a process, which these systems do not show.
func hasThread(int, uint64) bool { return true }
