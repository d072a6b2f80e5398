package fakeosqueryd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
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
	proto := newProtocol(trans)
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

// listening reports whether the socket is open.
func (s *server) listening() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ln != nil
}

// handler answers one connection of the manager socket.
type handler struct {
	w    *worker
	conn *faultConn
}

func status(code int32, message string, uuid osquery.ExtensionRouteUUID) *osquery.ExtensionStatus {
	return &osquery.ExtensionStatus{Code: code, Message: message, UUID: uuid}
}

func (h *handler) hold(m gateMode) { h.w.p.gate.wait(m, h.w.p.dead) }

// Ping answers while anything does.
func (h *handler) Ping(context.Context) (*osquery.ExtensionStatus, error) {
	h.hold(gateAll)
	h.w.count.pings.Add(1)
	return status(0, "pong", 0), nil
}

// Shutdown answers and does nothing: so does osqueryd.
func (h *handler) Shutdown(context.Context) error {
	h.hold(gateCalls)
	return nil
}

// Extensions lists those registered, without core.
func (h *handler) Extensions(context.Context) (osquery.InternalExtensionList, error) {
	h.hold(gateCalls)
	out := osquery.InternalExtensionList{}
	for _, e := range h.w.registry.list() {
		info := e.info
		out[e.uuid] = &info
	}
	return out, nil
}

// Options lists the flags.
func (h *handler) Options(context.Context) (osquery.InternalOptionList, error) {
	h.hold(gateCalls)
	out := osquery.InternalOptionList{}
	for _, f := range h.w.p.flags.all() {
		out[f.name] = &osquery.InternalOptionInfo{Value: f.value, DefaultValue: f.def, Type: string(f.kind)}
	}
	return out, nil
}

// RegisterExtension assigns a UUID.
func (h *handler) RegisterExtension(
	_ context.Context, info *osquery.InternalExtensionInfo, reg osquery.ExtensionRegistry,
) (*osquery.ExtensionStatus, error) {
	h.hold(gateCalls)
	v := h.w.p.at(PhaseRegister, info.Name)
	if v.Kind == Refuse {
		h.w.count.refused.Add(1)
		return status(1, v.Text, 0), nil
	}
	uuid, err := h.w.registry.register(info, reg)
	h.spoil(v)
	if err != nil {
		h.w.count.refused.Add(1)
		return status(1, err.Error(), 0), nil
	}
	h.w.count.registered.Add(1)
	return status(0, "OK", uuid), nil
}

// DeregisterExtension forgets one.
func (h *handler) DeregisterExtension(_ context.Context, uuid osquery.ExtensionRouteUUID) (*osquery.ExtensionStatus, error) {
	h.hold(gateCalls)
	if !h.w.registry.remove(uuid) {
		return status(1, "No extension UUID found", 0), nil
	}
	h.w.count.deregistered.Add(1)
	return status(0, "OK", 0), nil
}

// Call calls a plugin of any registry.
func (h *handler) Call(_ context.Context, reg, item string, req osquery.ExtensionPluginRequest) (*osquery.ExtensionResponse, error) {
	h.hold(gateCalls)
	h.w.count.calls.Add(1)
	v := h.w.p.at(PhaseCall, reg+" "+item)
	if v.Kind == Refuse {
		return &osquery.ExtensionResponse{Status: status(1, v.Text, 0)}, nil
	}
	res := h.w.registry.call(reg, item, req)
	h.spoil(v)
	out := &osquery.ExtensionResponse{Status: status(res.code, res.message, 0)}
	if res.code == 0 {
		out.Response = res.rows
	}
	return out, nil
}

// Query runs SQL to its end, whatever the client does meanwhile.
func (h *handler) Query(_ context.Context, sql string) (*osquery.ExtensionResponse, error) {
	h.hold(gateCalls)
	defer h.w.count.queryStarts()()
	v := h.w.p.at(PhaseQuery, sql)
	switch v.Kind {
	case Refuse:
		return &osquery.ExtensionResponse{Status: status(1, v.Text, 0)}, nil
	case Huge:
		return &osquery.ExtensionResponse{Status: status(0, "OK", 0), Response: hugeRows(v.Bytes)}, nil
	}
	rows, err := h.w.sql.query(sql)
	h.spoil(v)
	if err != nil {
		return &osquery.ExtensionResponse{Status: status(1, err.Error(), 0)}, nil
	}
	return &osquery.ExtensionResponse{Status: status(0, "OK", 0), Response: rows}, nil
}

// GetQueryColumns looks at the first statement only.
func (h *handler) GetQueryColumns(_ context.Context, sql string) (*osquery.ExtensionResponse, error) {
	h.hold(gateCalls)
	cols, err := h.w.sql.columns(sql)
	if err != nil {
		return &osquery.ExtensionResponse{Status: status(1, err.Error(), 0)}, nil
	}
	var rows osquery.ExtensionPluginResponse
	for _, c := range cols {
		rows = append(rows, map[string]string{c.name: c.kind})
	}
	return &osquery.ExtensionResponse{Status: status(0, "OK", 0), Response: rows}, nil
}

// spoil arms the connection for the answer that comes next.
func (h *handler) spoil(v Fault) {
	switch v.Kind {
	case Reset, Rubbish, Truncate:
		h.conn.fault.Store(&v)
	}
}

func hugeRows(n int64) osquery.ExtensionPluginResponse {
	if n <= 0 {
		n = 50 << 20
	}
	return osquery.ExtensionPluginResponse{{"data": strings.Repeat("x", int(n))}}
}

// faultConn spoils the next answer when it is told to.
type faultConn struct {
	net.Conn
	fault atomic.Pointer[Fault]
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
	switch v.Kind {
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
