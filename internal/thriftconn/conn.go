package thriftconn

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
)

// Option changes how a Conn behaves.
type Option func(*connOptions)

type connOptions struct{ maxMessage int }

// WithMaxMessage bounds a message in either direction, in bytes; the default is
// DefaultMaxMessage, 0 or less asks for it, and more than 2 GiB is cut to that.
func WithMaxMessage(bytes int) Option {
	return func(o *connOptions) { o.maxMessage = bytes }
}

const (
	stateOpen int32 = iota
	stateBroken
	stateClosed
)

// Conn is one buffered connection to osqueryd. Any number of goroutines may use
// it: calls run one at a time, and each waits for its turn under its own
// context. While no call runs it holds no buffers that the collector cannot
// take, and no goroutine.
//
// When the context of a call ends, the call returns at once with the context's
// error. If its request was under way by then the connection is closed, as it
// is after every failure of the transport, because what the peer sends later
// would be taken for the answer to the next call; later calls fail with
// ErrBroken. A call fails with
//
//   - the context's error,
//   - *StatusError: osqueryd refused; the connection stays usable,
//   - *ApplicationError: osqueryd does not know the call, or threw; the
//     connection stays usable,
//   - *TransportError: the connection failed and is closed,
//   - ErrMalformed, ErrTooLarge: the answer cannot be read; the connection is
//     closed (a request that is too large leaves it usable),
//   - ErrBroken or ErrClosed.
type Conn struct {
	nc     net.Conn
	limit  int
	slot   chan struct{} // holds a token while a call runs
	state  atomic.Int32
	pooled sync.Pool // of *callState; its own, so that no global is needed
	seq    int32     // of the last call; guarded by slot

	interrupt   func()        // what the end of a call's context runs
	interrupted chan struct{} // one token for each run of interrupt
}

// callState is what a call needs and an idle connection does not.
type callState struct {
	r    reader
	out  []byte
	rows rowBuilder
}

// NewConn makes a Conn of an established connection, which it then owns. The
// connection must support deadlines.
func NewConn(nc net.Conn, opts ...Option) *Conn {
	var o connOptions
	for _, opt := range opts {
		opt(&o)
	}
	c := &Conn{
		nc:          nc,
		limit:       clampMessage(o.maxMessage),
		slot:        make(chan struct{}, 1),
		interrupted: make(chan struct{}, 1),
	}
	c.interrupt = func() {
		_ = c.nc.SetDeadline(longAgo())
		c.interrupted <- struct{}{}
	}
	return c
}

// Close closes the connection. A call in flight fails with ErrClosed, and so
// does every later one. It does not wait for anything, may be called more than
// once, and always returns nil.
func (c *Conn) Close() error {
	if c.state.Swap(stateClosed) == stateOpen {
		_ = c.nc.Close() // what is lost by it was given up anyway
	}
	return nil
}

// Broken tells whether the connection was closed, by a failure or by Close.
func (c *Conn) Broken() bool { return c.state.Load() != stateOpen }

// breakOff closes a connection that is in an unknown state.
func (c *Conn) breakOff() {
	if c.state.CompareAndSwap(stateOpen, stateBroken) {
		_ = c.nc.Close()
	}
}

func (c *Conn) usable() error {
	switch c.state.Load() {
	case stateBroken:
		return ErrBroken
	case stateClosed:
		return ErrClosed
	}
	return nil
}

// acquire waits for the turn.
func (c *Conn) acquire(ctx context.Context) error {
	select {
	case c.slot <- struct{}{}:
		return nil
	default:
	}
	select {
	case c.slot <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *Conn) release() { <-c.slot }

// call runs one exchange in its turn and closes the connection unless that left
// it clean.
func (c *Conn) call(ctx context.Context, method string, ex exchange) error {
	if err := c.acquire(ctx); err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	ph := phaseAnswering // which stands when a callback panics
	defer func() {
		if !ph.clean() {
			c.breakOff()
		}
		c.release()
	}()
	var err error
	ph, err = c.exchange(ctx, method, ex)
	return ownError(err)
}

func (c *Conn) takeState() *callState {
	st, ok := c.pooled.Get().(*callState)
	if !ok {
		st = &callState{}
	}
	st.r.reset(c.nc, c.limit)
	return st
}

func (c *Conn) putState(st *callState) {
	st.r.release()
	st.rows.reset()
	if cap(st.out) > maxBuffer {
		st.out = nil
	}
	c.pooled.Put(st)
}
