//go:build !windows

package osquerydtest

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"
)

// maxSocketPath is what fits into sockaddr_un.
func maxSocketPath() int { return unixAddrSpace - 1 }

func dialPipe(path string, timeout time.Duration) (net.Conn, error) {
	return dialUnix(path, timeout)
}

var (
	errSocketDir  = errors.New("Extension socket directory missing")      //nolint:staticcheck // osqueryd's text
	errSocketLong = errors.New(" Unix Domain socket path too long")       //nolint:staticcheck // osqueryd's text
	errSocketBusy = errors.New("Cannot remove extension socket")          //nolint:staticcheck // osqueryd's text
	errSocketPerm = errors.New("Cannot write to extension socket folder") //nolint:staticcheck // osqueryd's text
)

// clearSocket removes whatever is at the path, without looking for a listener.
func clearSocket(path string) error {
	dir := filepath.Dir(path)
	if _, err := os.Stat(dir); err != nil {
		return fmt.Errorf("%w: %s", errSocketDir, path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		if errors.Is(err, os.ErrPermission) {
			return fmt.Errorf("%w: %s", errSocketPerm, path)
		}
		return fmt.Errorf("%w: %s", errSocketBusy, path)
	}
	return nil
}

// removeStale deletes the sockets of extensions of an earlier run.
func removeStale(path string) {
	stale, _ := filepath.Glob(path + ".*")
	for _, s := range stale {
		_ = os.Remove(s)
	}
}

func listenPipe(path string) (net.Listener, error) {
	if len(path) > maxSocketPath() {
		return nil, errSocketLong
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	// The path may belong to a successor when this one closes.
	ln.(*net.UnixListener).SetUnlinkOnClose(false)
	return ln, nil
}

func removeSocket(path string) error { return os.Remove(path) }
