package thriftconn

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
)

// Sentinel is an idle connection to osqueryd's manager socket. Its end says,
// without any polling, that the process which accepted it went away. It has one
// goroutine.
type Sentinel struct {
	nc      net.Conn
	lost    chan struct{}
	joined  chan struct{}
	closing chan struct{}
	once    sync.Once
	err     error // set before lost is closed
}

// errUnasked is the end of a sentinel whose peer speaks without being asked.
var errUnasked = errors.New("the peer sent something without being asked: it is not osqueryd")

// Watch connects to the socket at path, in one try that ends with ctx and after
// 5 s; a failure is a *DialError. ctx does not bound the watch that follows:
// Close ends it.
func Watch(ctx context.Context, path string) (*Sentinel, error) {
	nc, err := dial(ctx, path)
	if err != nil {
		return nil, &DialError{Path: path, Attempts: 1, Last: err}
	}
	return watch(nc), nil
}

func watch(nc net.Conn) *Sentinel {
	s := &Sentinel{
		nc:      nc,
		lost:    make(chan struct{}),
		joined:  make(chan struct{}),
		closing: make(chan struct{}),
	}
	go s.wait()
	return s
}

// Lost is closed when the process behind the socket went away, or closed the
// connection. Close does not close it.
func (s *Sentinel) Lost() <-chan struct{} { return s.lost }

// Err reports how the connection ended: io.EOF when its peer closed it; nil as
// long as Lost is open.
func (s *Sentinel) Err() error {
	select {
	case <-s.lost:
		return s.err
	default:
		return nil
	}
}

// Close ends the watch and joins its goroutine. It may be called more than
// once, and always returns nil.
func (s *Sentinel) Close() error {
	s.once.Do(func() {
		close(s.closing)
		_ = s.nc.Close()
	})
	<-s.joined
	return nil
}

func (s *Sentinel) wait() {
	defer close(s.joined)
	var one [1]byte
	n, err := s.nc.Read(one[:])
	select {
	case <-s.closing:
		return // the owner ended it
	default:
	}
	switch {
	case n > 0:
		err = errUnasked
	case err == nil:
		err = io.ErrNoProgress
	}
	s.err = err
	close(s.lost)
	_ = s.nc.Close()
}
