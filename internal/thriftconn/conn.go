package thriftconn

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Option changes how a Conn behaves.
type Option func(*connOptions)

type connOptions struct{ maxMessage int }

// WithMaxMessage bounds a message in either direction, in bytes; the default is
// DefaultMaxMessage, 0 or less stands for it, and more than 2 GiB is cut to that.
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

// Broken reports whether the connection was closed, by a failure or by Close.
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

func (c *Conn) getState() *callState {
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

const (
	// dialTimeout bounds one try to connect, whatever the context allows.
	dialTimeout = 5 * time.Second
	minDialWait = time.Millisecond
	maxDialWait = 25 * time.Millisecond
	// dialWaitShare keeps what waiting adds to the time until a socket answers
	// to about 3 %.
	dialWaitShare = 32
)

// Dial connects to osqueryd's manager socket, or an extension's, at path; one
// try, of at most 5 s. It fails with a *DialError.
func Dial(ctx context.Context, path string, opts ...Option) (*Conn, error) {
	nc, err := dial(ctx, path)
	if err != nil {
		return nil, &DialError{Path: path, Attempts: 1, Last: err}
	}
	return NewConn(nc, opts...), nil
}

// DialUntil connects as soon as a socket at path answers. It tries again after
// 1 ms at first and, the longer it takes, after up to 25 ms. It gives up when
// ctx ends or stop is closed (which may be nil); the *DialError then names the
// last failure, and errors.Is finds the context's error or ErrStopped in it.
func DialUntil(ctx context.Context, path string, stop <-chan struct{}, opts ...Option) (*Conn, error) {
	start := time.Now()
	timer := time.NewTimer(maxDialWait)
	defer timer.Stop()
	fail := &DialError{Path: path}
	for {
		if fail.Err = ended(ctx, stop); fail.Err != nil {
			return nil, fail
		}
		nc, err := dialThere(ctx, path)
		if err == nil {
			return NewConn(nc, opts...), nil
		}
		fail.Attempts++
		fail.Last = err
		timer.Reset(dialWait(time.Since(start)))
		select {
		case <-timer.C:
		case <-ctx.Done():
		case <-stop:
		}
	}
}

// ended returns why to stop trying; nil means go on.
func ended(ctx context.Context, stop <-chan struct{}) error {
	select {
	case <-stop:
		return ErrStopped
	default:
		return ctx.Err()
	}
}

// dialWait is how long to wait for the next try when waited has gone by.
func dialWait(waited time.Duration) time.Duration {
	return min(max(waited/dialWaitShare, minDialWait), maxDialWait)
}

// dialThere does not try a socket that is not there: to look for it costs a tenth of a
// try, and many instances may be starting at once.
func dialThere(ctx context.Context, path string) (net.Conn, error) {
	if err := lookForSocket(path); err != nil {
		return nil, err
	}
	return dial(ctx, path)
}

func dial(ctx context.Context, path string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	return dialSocket(ctx, path)
}

// phase reports how far an exchange came.
type phase uint8

const (
	phaseIdle      phase = iota // nothing was written
	phaseSending                // the peer cannot have the whole request
	phaseSent                   // no byte of the answer has arrived
	phaseAnswering              // the peer has begun to answer, so it is done with the work
	phaseDone                   // the whole answer was read
)

// clean reports whether another exchange can follow on the same connection.
func (p phase) clean() bool { return p == phaseIdle || p == phaseDone }

// exchange is what differs between calls.
type exchange struct {
	// args appends the fields of the arguments.
	args func(b []byte) []byte
	// result reads field 0 of the result, which is of type typ.
	result func(st *callState, typ byte)
	// finish, when not nil, looks at the result when the whole answer was read.
	finish func(st *callState) error
}

// longAgo is a deadline that has passed.
func longAgo() time.Time { return time.Unix(1, 0) }

// exchange sends a request and reads the answer. The caller has the turn, and
// closes the connection unless the phase it returns is clean.
func (c *Conn) exchange(ctx context.Context, method string, ex exchange) (phase, error) {
	if err := c.usable(); err != nil {
		return phaseIdle, fmt.Errorf("%s: %w", method, err)
	}
	if err := ctx.Err(); err != nil {
		return phaseIdle, fmt.Errorf("%s: %w", method, err)
	}
	st := c.getState()
	defer c.putState(st)
	ph, cut, err := c.guarded(ctx, st, method, ex)
	if err == nil || ph.clean() {
		return ph, err
	}
	return ph, c.explain(ctx, method, err, cut)
}

// guarded runs the exchange so that the end of ctx interrupts it; cut reports
// whether it did.
func (c *Conn) guarded(ctx context.Context, st *callState, method string, ex exchange) (ph phase, cut bool, err error) {
	if ctx.Done() == nil {
		ph, err = c.roundTrip(st, method, ex)
		return ph, false, err
	}
	stop := context.AfterFunc(ctx, c.interrupt)
	defer func() {
		if !stop() {
			<-c.interrupted
			_ = c.nc.SetDeadline(time.Time{})
			cut = true
		}
	}()
	ph, err = c.roundTrip(st, method, ex)
	return ph, false, err
}

// explain returns the most specific error of a failed exchange.
func (c *Conn) explain(ctx context.Context, method string, err error, cut bool) error {
	var own callbackError
	switch {
	case errors.As(err, &own):
		return own // ownError unwraps it: it is not the connection's
	case c.state.Load() == stateClosed:
		return fmt.Errorf("%s: %w", method, ErrClosed)
	case cut && isTimeout(err):
		return fmt.Errorf("%s: %w", method, ctx.Err())
	case errors.Is(err, ErrMalformed), errors.Is(err, ErrTooLarge):
		return fmt.Errorf("%s: %w", method, err)
	}
	return &TransportError{Method: method, Err: err}
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}

func (c *Conn) roundTrip(st *callState, method string, ex exchange) (phase, error) {
	c.seq++
	st.out = appendHeader(st.out[:0], messageCall, method, c.seq)
	st.out = appendStop(ex.args(st.out))
	if len(st.out) > c.limit {
		return phaseIdle, fmt.Errorf("%s: %w: the request has %d bytes of %d", method, ErrTooLarge, len(st.out), c.limit)
	}
	if _, err := c.nc.Write(st.out); err != nil {
		return phaseSending, err
	}
	return c.readAnswer(st, method, ex)
}

func (c *Conn) readAnswer(st *callState, method string, ex exchange) (phase, error) {
	r := &st.r
	err := r.reply(st, method, c.seq, ex)
	switch {
	case r.err != nil && !r.began:
		return phaseSent, r.err
	case r.err == nil && r.buffered() > 0:
		r.malformed("%d bytes follow the answer to %s", r.buffered(), method)
	}
	if r.err != nil {
		return phaseAnswering, r.err
	}
	if err == nil && ex.finish != nil {
		err = ex.finish(st)
	}
	return phaseDone, err
}

// reply reads a whole answer. What stops the reading is in r.err; the error it
// returns is one that the peer sent.
func (r *reader) reply(st *callState, method string, seq int32, ex exchange) error {
	h := r.header()
	if r.err != nil {
		return nil
	}
	if h.seq != seq || (h.method != method && h.kind == messageReply) {
		r.malformed("answer %d to %.100q came for call %d of %s", h.seq, h.method, seq, method)
		return nil
	}
	switch h.kind {
	case messageException:
		typ, message := r.exception()
		return &ApplicationError{Method: method, Type: typ, Message: message}
	case messageReply:
		return r.result(st, method, ex)
	}
	r.malformed("message of kind %d in place of an answer", h.kind)
	return nil
}

func (r *reader) result(st *callState, method string, ex exchange) error {
	found := false
	for typ, id := r.field(); typ != typeStop; typ, id = r.field() {
		if id != 0 {
			r.skip(typ)
			continue
		}
		found = true
		ex.result(st, typ)
	}
	if !found {
		return &ApplicationError{Method: method, Type: exceptionMissingResult, Message: "the answer holds no result"}
	}
	return nil
}

// discardAnswer reads and drops the answer to a request whose caller has
// returned. It reports whether the connection is clean then. The caller of this
// has the turn.
func (c *Conn) discardAnswer(within time.Duration) bool {
	st := c.getState()
	defer c.putState(st)
	if c.nc.SetReadDeadline(time.Now().Add(within)) != nil {
		return false
	}
	r := &st.r
	h := r.header()
	if r.err == nil && h.kind != messageReply && h.kind != messageException {
		return false
	}
	r.skip(typeStruct)
	return r.err == nil && h.seq == c.seq && r.buffered() == 0 &&
		c.nc.SetReadDeadline(time.Time{}) == nil
}
