package osquerydtest

import (
	"net"
	"sync/atomic"
)

// faultConn spoils the next answer when it is told to.
type faultConn struct {
	net.Conn
	fault atomic.Pointer[verdict]
	dead  <-chan struct{} // nothing is said after death
}

func (c *faultConn) Write(b []byte) (int, error) {
	if isClosed(c.dead) {
		return 0, net.ErrClosed
	}
	v := c.fault.Swap(nil)
	if v == nil {
		return c.Conn.Write(b)
	}
	switch v.kind {
	case Rubbish:
		return len(b), c.lastWords([]byte("HTTP/1.1 400 Bad Request\r\n\r\n\x00\xff\xfe rubbish"))
	case Truncate:
		return len(b), c.lastWords(b[:len(b)/2])
	case Reset:
		return 0, c.Conn.Close()
	}
	return c.Conn.Write(b)
}

// lastWords writes and hangs up.
func (c *faultConn) lastWords(b []byte) error {
	_, err := c.Conn.Write(b)
	_ = c.Conn.Close()
	return err
}
