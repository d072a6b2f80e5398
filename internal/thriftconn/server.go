package thriftconn

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/osquery/osquery-go/gen/osquery"
)

// Defaults and bounds of a Server.
const (
	// writeTimeout is how long osqueryd may take to accept a part of an answer, of
	// 64 KiB or so. The bound is kept roughly: it takes effect within twice the time.
	writeTimeout = 30 * time.Second

	// hangupDelay is between one and two of how long a call runs before its
	// connection is watched for its end; shorter calls do without.
	hangupDelay = 10 * time.Millisecond

	minAcceptWait  = 5 * time.Millisecond
	maxAcceptWait  = time.Second
	maxAcceptTries = 20
)

// Handler answers osqueryd's calls. Its methods are called from many goroutines
// at once.
type Handler interface {
	// Call answers a call of the plugin item in a registry. ctx ends when
	// osqueryd closes the connection (noticed in calls of more than 20 ms) and when the server
	// closes. The handler may keep request, and must not change the answer
	// after it returned. An answer without a status is a failure. A panic is
	// answered with status 1.
	Call(ctx context.Context, registry, item string, request map[string]string) osquery.ExtensionResponse
	// Shutdown is called when osqueryd orders the extension to end; it has been
	// answered. It must not wait for Server.Close, which waits for it.
	Shutdown()
}

// ServerOption changes how a Server behaves.
type ServerOption func(*serverOptions)

type serverOptions struct {
	maxMessage   int // in either direction: a larger request ends its connection, a larger answer is replaced by a failure
	writeTimeout time.Duration
	onPanic      func(value any, stack []byte)
	log          *slog.Logger
}

// OnPanic sets a function that is called with every panic in the handler, with the
// stack. It runs in the goroutine of the call, before osqueryd is answered, and
// must not block; a panic in it is dropped.
func OnPanic(fn func(value any, stack []byte)) ServerOption {
	return func(o *serverOptions) { o.onPanic = fn }
}

// WithServerLogger sets the logger, which discards by default. Connections that
// end in the middle of a message, or send rubbish, are logged at debug level.
func WithServerLogger(log *slog.Logger) ServerOption {
	return func(o *serverOptions) { o.log = log }
}

// Server answers osqueryd's calls to this extension: ping, call and shutdown.
// Every connection has one goroutine, which runs one call at a time. All
// methods may be called from any goroutine.
type Server struct {
	handler Handler
	opt     serverOptions
	base    context.Context
	cancel  context.CancelFunc
	closing atomic.Bool
	running atomic.Int64 // calls in the handler
	pooled  sync.Pool    // of *connState

	watching atomic.Bool // ticks go on; written under mu
	ticker   *time.Timer // guarded by mu

	wg    sync.WaitGroup // Serve loops and connections
	mu    sync.Mutex
	lists map[net.Listener]struct{}
	conns map[*serverConn]struct{}
}

// NewServer makes a server. It does nothing until Serve.
func NewServer(h Handler, opts ...ServerOption) *Server {
	s := &Server{
		handler: h,
		opt:     serverOptions{maxMessage: DefaultMaxMessage, writeTimeout: writeTimeout},
		lists:   map[net.Listener]struct{}{},
		conns:   map[*serverConn]struct{}{},
	}
	for _, opt := range opts {
		opt(&s.opt)
	}
	if s.opt.log == nil {
		s.opt.log = slog.New(slog.DiscardHandler)
	}
	s.base, s.cancel = context.WithCancel(context.Background())
	return s
}

// Serve accepts connections until Close and then returns nil. Any other end is
// an error: the listener was closed by somebody else, or failed 20 times in a
// row. Serve closes the listener when it returns.
func (s *Server) Serve(l net.Listener) error {
	if !s.addListener(l) {
		_ = l.Close()
		return nil
	}
	defer s.wg.Done()
	defer s.removeListener(l)
	for failures := 0; ; {
		nc, err := l.Accept()
		if err == nil {
			failures = 0
			s.start(nc)
			continue
		}
		if s.closing.Load() {
			return nil
		}
		failures++
		if errors.Is(err, net.ErrClosed) || failures >= maxAcceptTries {
			return fmt.Errorf("accept a connection of osqueryd: %w", err)
		}
		s.opt.log.Warn("cannot accept a connection of osqueryd; trying again", "error", err)
		s.pause(min(minAcceptWait<<failures, maxAcceptWait))
	}
}

// pause waits, at most until the server closes.
func (s *Server) pause(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-s.base.Done():
	}
}

func (s *Server) addListener(l net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing.Load() {
		return false
	}
	s.lists[l] = struct{}{}
	s.wg.Add(1)
	return true
}

func (s *Server) removeListener(l net.Listener) {
	s.mu.Lock()
	delete(s.lists, l)
	s.mu.Unlock()
	_ = l.Close()
}

// start serves a connection in a goroutine of its own.
func (s *Server) start(nc net.Conn) {
	c := &serverConn{s: s, nc: nc}
	s.mu.Lock()
	if s.closing.Load() {
		s.mu.Unlock()
		_ = nc.Close()
		return
	}
	s.conns[c] = struct{}{}
	s.wg.Add(1)
	s.mu.Unlock()
	go c.serve()
}

// done ends a connection.
func (s *Server) done(c *serverConn) {
	_ = c.nc.Close()
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
	s.wg.Done()
}

// Close stops accepting, closes idle connections, ends the context of running
// calls and waits until these were answered. When ctx ends first, it closes the
// connections of the calls that still run and returns an error that states how
// many; their goroutines end when the handler returns, and another Close waits
// for them again. It may be called any number of times, not from the handler.
func (s *Server) Close(ctx context.Context) error {
	s.stop()
	joined := make(chan struct{})
	go func() {
		s.wg.Wait()
		close(joined)
	}()
	select {
	case <-joined:
		return nil
	case <-ctx.Done():
	}
	s.cut()
	return s.lastLook(ctx, joined)
}

// cutGrace is how long closed connections have to end by themselves.
const cutGrace = 100 * time.Millisecond

// lastLook waits for what the closing of all connections ends at once.
func (s *Server) lastLook(ctx context.Context, joined <-chan struct{}) error {
	timer := time.NewTimer(cutGrace)
	defer timer.Stop()
	select {
	case <-joined:
		return nil
	case <-timer.C:
	}
	return fmt.Errorf("%d calls of osqueryd still run in the handler: %w", s.running.Load(), ctx.Err())
}

// stop lets nothing new begin. Connections that wait for a request wake up.
func (s *Server) stop() {
	s.mu.Lock()
	s.closing.Store(true)
	s.unwatch()
	lists, conns := s.snapshot()
	s.mu.Unlock()
	s.cancel()
	for _, l := range lists {
		_ = l.Close()
	}
	for _, c := range conns {
		_ = c.nc.SetReadDeadline(longAgo())
	}
}

// cut closes every connection.
func (s *Server) cut() {
	s.mu.Lock()
	_, conns := s.snapshot()
	s.mu.Unlock()
	for _, c := range conns {
		_ = c.nc.Close()
	}
}

// snapshot lists what is open; s.mu is held.
func (s *Server) snapshot() (lists []net.Listener, conns []*serverConn) {
	for l := range s.lists {
		lists = append(lists, l)
	}
	for c := range s.conns {
		conns = append(conns, c)
	}
	return lists, conns
}

// hangup notices, while a call runs, that osqueryd closed the connection. Only
// calls that last cost a goroutine, and no call costs a timer: one timer of the
// server looks after all of them, because setting a timer wakes the scheduler
// and that would cost more than a short call.
type hangup struct {
	// call is 0 between calls, 2*n during call n, and 2*n+1 once peek runs.
	call atomic.Uint64
	last uint64        // the n of the last call; of the connection's goroutine
	seen uint64        // the call that the last tick saw; guarded by Server.mu
	done chan struct{} // closed when peek ends; made before call turns odd
}

// callBegins starts to watch a call. Each is followed by one callEnds.
func (c *serverConn) callBegins() {
	c.hangup.last++
	c.hangup.call.Store(2 * c.hangup.last)
	c.s.running.Add(1)
	if !c.s.watching.Load() {
		c.s.watch()
	}
}

// callEnds ends the watch and joins its goroutine.
func (c *serverConn) callEnds() {
	c.s.running.Add(-1)
	if c.hangup.call.CompareAndSwap(2*c.hangup.last, 0) {
		return
	}
	_ = c.nc.SetReadDeadline(longAgo())
	<-c.hangup.done
	c.hangup.call.Store(0)
	_ = c.nc.SetReadDeadline(time.Time{}) // whether the server closes is looked at next
}

// peek reads ahead. What comes is the next request; the end ends the call.
func (c *serverConn) peek() {
	defer close(c.hangup.done)
	r := &c.st.r
	r.makeRoom(r.buffered() + 1)
	n, err := c.nc.Read(r.buf[r.w:])
	r.w += n
	if err != nil && !isTimeout(err) {
		c.cancel()
	}
}

// look starts to peek when the same call ran at the last tick; s.mu is held.
func (c *serverConn) look() {
	h := &c.hangup
	v := h.call.Load()
	if v == 0 || v%2 == 1 {
		return
	}
	if v != h.seen {
		h.seen = v
		return
	}
	h.done = make(chan struct{})
	if h.call.CompareAndSwap(v, v+1) {
		go c.peek() // callEnds joins it
	}
}

// watch starts the ticks, which go on for as long as calls run.
func (s *Server) watch() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.watching.Load() || s.closing.Load() {
		return
	}
	s.watching.Store(true)
	s.wg.Add(1) // the caller is a connection, so that nobody waits in vain yet
	if s.ticker == nil {
		s.ticker = time.AfterFunc(hangupDelay, s.tick)
		return
	}
	s.ticker.Reset(hangupDelay)
}

// unwatch ends the ticks; s.mu is held, and the server is closing.
func (s *Server) unwatch() {
	if s.watching.Load() && s.ticker.Stop() {
		s.watching.Store(false)
		s.wg.Done()
	}
}

// tick looks at all connections.
func (s *Server) tick() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.look()
	}
	// A call that begins now either finds watching false and starts the ticks,
	// or is counted as running here.
	s.watching.Store(false)
	if s.running.Load() > 0 && !s.closing.Load() {
		s.watching.Store(true)
		s.ticker.Reset(hangupDelay)
		return
	}
	s.wg.Done()
}
