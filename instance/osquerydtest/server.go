package osquerydtest

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/apache/thrift/lib/go/thrift"
	"github.com/osquery/osquery-go/gen/osquery"
)

// server is the extension manager's socket: a goroutine a connection.
type server struct {
	w  *worker
	mu sync.Mutex

	path     string
	ln       net.Listener
	conns    map[*faultConn]struct{}
	stopping bool
	wait     sync.WaitGroup
}

func newServer(w *worker) *server {
	return &server{w: w, conns: map[*faultConn]struct{}{}}
}

// open listens. A path that is too long only warns; a missing directory is an
// error: osqueryd goes on without a socket either way.
func (s *server) open() error {
	p := s.w.p
	s.path = p.flags.str("extensions_socket")
	if p.noSocket.Load() {
		return nil
	}
	if err := clearSocket(s.path); err != nil {
		return err
	}
	removeStale(s.path)
	ln, err := listenPipe(s.path)
	if err != nil {
		p.log.warn("interface.cpp:320", "Extensions disabled: cannot start extension manager (%s) (%s)", s.path, err)
		return nil
	}
	s.mu.Lock()
	s.ln = ln
	s.mu.Unlock()
	s.wait.Go(func() { s.accept(ln) })
	return nil
}

func (s *server) accept(ln net.Listener) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		c := &faultConn{Conn: conn, dead: s.w.p.dead}
		if !s.add(c) {
			_ = conn.Close()
			return
		}
		s.wait.Go(func() { s.serve(c) })
	}
}

func (s *server) add(c *faultConn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return false
	}
	s.conns[c] = struct{}{}
	s.w.count.conns.Add(1)
	s.w.count.connsTotal.Add(1)
	return true
}

func (s *server) serve(c *faultConn) {
	defer s.forget(c)
	trans := thrift.NewTBufferedTransport(rawTransport{c}, 4096)
	proto := thrift.NewTBinaryProtocolConf(trans, nil)
	processor := osquery.NewExtensionManagerProcessor(&handler{w: s.w, conn: c})
	for {
		ok, err := processor.Process(noContext(), proto, proto)
		var app thrift.TApplicationException
		if errors.As(err, &app) && ok {
			continue // an unknown method, answered as such
		}
		if err != nil || !ok {
			return
		}
	}
}

func (s *server) forget(c *faultConn) {
	_ = c.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	s.w.count.conns.Add(-1)
}

// stop takes no new connections, ends idle ones, and waits for the calls in
// flight.
func (s *server) stop() {
	s.mu.Lock()
	s.stopping = true
	ln := s.ln
	for c := range s.conns {
		_ = c.SetReadDeadline(time.Unix(1, 0)) // an answer may still be written
	}
	s.mu.Unlock()
	if ln == nil {
		return
	}
	_ = ln.Close()
	s.wait.Wait()
	_ = removeSocket(s.path)
}

func (s *server) closeConns() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		_ = c.Close()
	}
}

// abandon is the end of a process played by goroutines that dies without
// cleaning up: the descriptors close, the files stay.
func (s *server) abandon() {
	s.mu.Lock()
	s.stopping = true
	if s.ln != nil {
		_ = s.ln.Close()
	}
	s.mu.Unlock()
	s.closeConns()
	s.wait.Wait()
}

func (s *server) deleteFile() error {
	if err := removeSocket(s.path); err != nil {
		return fmt.Errorf("delete the socket: %w", err)
	}
	return nil
}

// listening says whether the socket is open.
func (s *server) listening() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ln != nil
}
