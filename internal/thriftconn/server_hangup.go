package thriftconn

import (
	"sync/atomic"
	"time"
)

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
