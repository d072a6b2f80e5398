package thriftconn

import (
	"context"
	"net"
	"sync"
)

// Sentinel is an idle connection to osqueryd's manager socket. Its end shows,
// without any polling, that the process which accepted it went away. It has one
// goroutine.
type Sentinel struct {
	nc      net.Conn
	lost    chan struct{}
	joined  chan struct{}
	closing chan struct{}
	once    sync.Once
}

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
	_, _ = s.nc.Read(one[:]) // a peer that sends something on its own is not osqueryd
	select {
	case <-s.closing:
		return // the owner ended it
	default:
	}
	close(s.lost)
	_ = s.nc.Close()
}
