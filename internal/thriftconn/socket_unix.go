//go:build !windows

package thriftconn

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
)

func dialSocket(ctx context.Context, path string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "unix", path)
}

// lookForSocket fails while there is no file at path.
func lookForSocket(path string) error {
	_, err := os.Lstat(path)
	return err
}

// Listen makes a socket at path that only the user of this process may connect
// to (mode 0600), for [Server.Serve]. A socket that an earlier process left
// there is removed first, whether or not somebody listens on it; any other kind
// of file is an error. Closing the listener removes the socket.
//
// The socket is open to others between its creation and the change of its mode,
// unless its directory keeps them out: make that 0700. The path may have at
// most 107 bytes on Linux and 103 on macOS.
func Listen(path string) (net.Listener, error) {
	if err := removeStale(path); err != nil {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on the extension socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("restrict the extension socket to its owner: %w", err), l.Close())
	}
	return l, nil
}

func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for a stale extension socket: %w", err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s is in the way of the extension socket and is no socket: remove it", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove a stale extension socket: %w", err)
	}
	return nil
}
