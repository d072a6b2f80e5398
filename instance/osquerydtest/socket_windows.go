package osquerydtest

import (
	"net"
	"time"

	"github.com/Microsoft/go-winio"
)

func dialPipe(path string, timeout time.Duration) (net.Conn, error) {
	return winio.DialPipe(path, &timeout)
}

// A named pipe is no file: there is nothing to clear.
func clearSocket(string) error  { return nil }
func removeStale(string)        {}
func removeSocket(string) error { return nil }

func listenPipe(path string) (net.Listener, error) { return winio.ListenPipe(path, nil) }
