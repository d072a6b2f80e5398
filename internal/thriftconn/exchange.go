package thriftconn

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// phase says how far an exchange came.
type phase uint8

const (
	phaseIdle      phase = iota // nothing was written
	phaseSending                // the peer cannot have the whole request
	phaseSent                   // no byte of the answer has arrived
	phaseAnswering              // the peer has begun to answer, so it is done with the work
	phaseDone                   // the whole answer was read
)

// clean tells whether another exchange can follow on the same connection.
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
	st := c.takeState()
	defer c.putState(st)
	ph, cut, err := c.guarded(ctx, st, method, ex)
	if err == nil || ph.clean() {
		return ph, err
	}
	return ph, c.explain(ctx, method, err, cut)
}

// guarded runs the exchange so that the end of ctx interrupts it; cut tells
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

// explain gives the error that tells most about why an exchange failed.
func (c *Conn) explain(ctx context.Context, method string, err error, cut bool) error {
	var own callbackError
	switch {
	case errors.As(err, &own):
		return own // whoever called takes it out, knowing then that it tells nothing about the connection
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

// discardAnswer reads the answer to a request whose caller gave up, and throws
// it away. It reports whether the connection is clean then. The caller has the
// turn.
func (c *Conn) discardAnswer(within time.Duration) bool {
	st := c.takeState()
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
