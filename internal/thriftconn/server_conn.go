package thriftconn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime/debug"
	"time"

	"github.com/osquery/osquery-go/gen/osquery"
)

// codeFailed is osquery's status for a call that failed.
const codeFailed = 1

// serverConn is one connection of osqueryd. Its goroutine owns it.
type serverConn struct {
	s      *Server
	nc     net.Conn
	st     *connState
	ctx    context.Context // of the calls; made for the first one
	cancel context.CancelFunc
	hangup hangup

	sent     int       // bytes, in all
	deadline time.Time // of writes
}

// connState is the memory of a connection, which the next one uses again.
type connState struct {
	r   reader
	out []byte
}

// serve answers requests until the connection ends.
func (c *serverConn) serve() {
	defer c.s.done(c)
	c.st = c.s.getState(c.nc)
	defer c.s.putState(c.st)
	defer func() {
		if c.cancel != nil {
			c.cancel()
		}
	}()
	for !c.s.closing.Load() {
		if err := c.serveOne(); err != nil {
			if !errors.Is(err, io.EOF) && !c.s.closing.Load() {
				c.s.opt.log.Debug("a connection of osqueryd ended", "error", err)
			}
			return
		}
	}
}

// serveOne answers one request. After an error the connection cannot go on.
func (c *serverConn) serveOne() error {
	r := &c.st.r
	r.begin()
	h := r.header()
	if r.err != nil {
		return r.err
	}
	if h.kind != messageCall && h.kind != messageOneway {
		return fmt.Errorf("%w: message of kind %d in place of a call", ErrMalformed, h.kind)
	}
	switch h.method {
	case methodCall:
		return c.serveCall(h)
	case methodPing:
		return c.servePing(h)
	case methodShutdown:
		return c.serveShutdown(h)
	}
	r.skip(typeStruct)
	return c.answer(h, messageException, func(b []byte) []byte {
		return appendException(b, exceptionUnknownMethod, "Unknown function "+h.method)
	})
}

func (c *serverConn) servePing(h header) error {
	c.st.r.skip(typeStruct)
	return c.answer(h, messageReply, func(b []byte) []byte {
		return appendStop(appendStatus(appendField(b, typeStruct, 0), 0, "OK", 0))
	})
}

func (c *serverConn) serveShutdown(h header) error {
	c.st.r.skip(typeStruct)
	err := c.answer(h, messageReply, appendStop)
	if err == nil {
		c.protect(c.s.handler.Shutdown)
	}
	return err
}

func (c *serverConn) serveCall(h header) error {
	registry, item, request := c.st.r.callArgs()
	if c.st.r.err != nil {
		return c.st.r.err
	}
	if c.ctx == nil {
		c.ctx, c.cancel = context.WithCancel(c.s.base)
	}
	response := c.invoke(registry, item, request)
	return c.respond(h, &response)
}

// invoke calls the handler; a panic becomes a failed answer.
func (c *serverConn) invoke(registry, item string, request map[string]string) (response osquery.ExtensionResponse) {
	c.callBegins()
	defer c.callEnds()
	v := c.protect(func() {
		response = c.s.handler.Call(c.ctx, registry, item, request)
	})
	if v != nil {
		response = failed(fmt.Sprintf("the plugin %s/%s panicked: %v", registry, item, v))
	}
	return response
}

func failed(message string) osquery.ExtensionResponse {
	return osquery.ExtensionResponse{Status: &osquery.ExtensionStatus{Code: codeFailed, Message: message}}
}

// protect runs fn and returns the value that it panicked with, or nil.
func (c *serverConn) protect(fn func()) (value any) {
	defer func() {
		if value = recover(); value != nil {
			c.s.reportPanic(value, debug.Stack())
		}
	}()
	fn()
	return nil
}

func (s *Server) reportPanic(value any, stack []byte) {
	s.opt.log.Error("a plugin panicked", "value", value, "stack", string(stack))
	if s.opt.onPanic == nil {
		return
	}
	defer func() { _ = recover() }() // a hook must not end the host either
	s.opt.onPanic(value, stack)
}

// answer sends a message that is small; nothing in answer to a oneway call.
func (c *serverConn) answer(h header, kind byte, body func([]byte) []byte) error {
	if c.st.r.err != nil || h.kind == messageOneway {
		return c.st.r.err
	}
	c.st.out = body(appendHeader(c.st.out[:0], kind, h.method, h.seq))
	return c.flush()
}

// respond sends the answer to a call, in parts when it is large.
func (c *serverConn) respond(h header, response *osquery.ExtensionResponse) error {
	if h.kind == messageOneway {
		return nil
	}
	if response.Status == nil {
		*response = failed("the plugin returned no status")
	}
	if size := responseSize(response); size > c.s.opt.maxMessage {
		*response = failed(fmt.Sprintf("the plugin's answer of %d bytes exceeds the limit of %d", size, c.s.opt.maxMessage))
	}
	st := response.Status
	out := appendHeader(c.st.out[:0], messageReply, h.method, h.seq)
	out = appendStatus(appendField(appendField(out, typeStruct, 0), typeStruct, 1), st.Code, st.Message, int64(st.UUID))
	out = appendListHeader(appendField(out, typeList, 2), typeMap, len(response.Response))
	for _, row := range response.Response {
		c.st.out = appendStringMap(out, row)
		if len(c.st.out) >= maxBuffer {
			if err := c.flush(); err != nil {
				return err
			}
		}
		out = c.st.out
	}
	c.st.out = appendStop(appendStop(out))
	return c.flush()
}

// responseSize is about how many bytes an answer takes; never too few for its
// rows.
func responseSize(response *osquery.ExtensionResponse) int {
	const fixed = 128
	size := fixed + len(response.Status.Message)
	for _, row := range response.Response {
		size += minMap
		for k, v := range row {
			size += 2*minString + len(k) + len(v)
		}
	}
	return size
}

// freeBytes is how much a connection can be sent that fits into the socket's
// buffer on every system, so that sending it cannot block. Most connections
// never get more, and go without a deadline, which costs a timer.
const freeBytes = 4 << 10

// flush sends what is buffered.
func (c *serverConn) flush() error {
	if c.sent += len(c.st.out); c.sent > freeBytes {
		if err := c.boundWrites(); err != nil {
			return err
		}
	}
	_, err := c.nc.Write(c.st.out)
	c.st.out = c.st.out[:0]
	if err != nil {
		return fmt.Errorf("send the answer: %w", err)
	}
	return nil
}

// boundWrites makes sure that a write has between one and two timeouts left. It
// seldom has to set the deadline for that.
func (c *serverConn) boundWrites() error {
	now := time.Now()
	timeout := c.s.opt.writeTimeout
	if c.deadline.Sub(now) >= timeout {
		return nil
	}
	c.deadline = now.Add(2 * timeout)
	if err := c.nc.SetWriteDeadline(c.deadline); err != nil {
		return fmt.Errorf("bound the answer: %w", err)
	}
	return nil
}

func (s *Server) getState(nc net.Conn) *connState {
	st, ok := s.pooled.Get().(*connState)
	if !ok {
		st = &connState{out: make([]byte, 0, minBuffer)}
	}
	st.r.reset(nc, s.opt.maxMessage)
	return st
}

func (s *Server) putState(st *connState) {
	st.r.release()
	if cap(st.out) > 2*maxBuffer {
		st.out = nil
	}
	s.pooled.Put(st)
}
