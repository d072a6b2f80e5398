package thriftconn

import (
	"errors"
	"fmt"
	"strings"
)

// Errors that callers compare with errors.Is.
var (
	// ErrBroken means that an earlier call ended in the middle of an exchange
	// (its context ended, or the transport failed), so that the connection was
	// closed. Dial again.
	ErrBroken = errors.New("connection is broken by an earlier call: dial again")
	// ErrClosed means that Close was called.
	ErrClosed = errors.New("closed")
	// ErrStopped means that the stop channel of DialUntil was closed.
	ErrStopped = errors.New("stopped before the socket answered")
	// ErrMalformed means that the peer sent something that is not the protocol.
	ErrMalformed = errors.New("malformed message")
	// ErrTooLarge means that a message, or what its headers claim, exceeds the
	// limit of the connection.
	ErrTooLarge = errors.New("message exceeds the limit")
	// ErrConnectionLost means that osqueryd went away, or was replaced, while
	// the query was in flight. Whether it ran is unknown; try again if running
	// it twice does no harm.
	ErrConnectionLost = errors.New("connection to osqueryd lost while the query was in flight")
	// ErrWaiting means that the context of a query of a QueryQueue ended before it was sent.
	ErrWaiting = errors.New("the query was still waiting for its turn")
	// ErrInFlight means that the context of a query of a QueryQueue ended while osqueryd ran it;
	// osqueryd goes on with it.
	ErrInFlight = errors.New("osqueryd was still running the query")
	// ErrUnavailable means that no connection to osqueryd could be had for as
	// long as the queue's patience lasts.
	ErrUnavailable = errors.New("osqueryd is not reachable")
)

// StatusError is a refusal by osqueryd itself: the exchange went well, and the
// status in the answer is not 0. For a query it holds SQLite's message.
type StatusError struct {
	Method  string // the call that was refused
	Code    int32
	Message string
}

// Error returns the call, the code and osqueryd's own text.
func (e *StatusError) Error() string {
	return fmt.Sprintf("osqueryd refused %s (status %d): %s", e.Method, e.Code, e.Message)
}

// ApplicationError is a Thrift exception in place of an answer: the peer does
// not know the method, or its handler failed. The connection stays usable.
type ApplicationError struct {
	Method  string
	Type    int32 // a TApplicationException type, such as 1: unknown method
	Message string
}

// Error returns the call, the exception type and the peer's own text.
func (e *ApplicationError) Error() string {
	return fmt.Sprintf("thrift exception %d in answer to %s: %s", e.Type, e.Method, e.Message)
}

// TransportError reports that the connection failed during a call.
type TransportError struct {
	Method string
	Err    error
}

// Error names the call and the failure.
func (e *TransportError) Error() string {
	return fmt.Sprintf("connection failed during %s: %v", e.Method, e.Err)
}

// Unwrap returns the failure of the transport.
func (e *TransportError) Unwrap() error { return e.Err }

// DialError reports that a socket could not be connected to.
type DialError struct {
	Path     string
	Attempts int   // how often it was tried
	Last     error // what the last try met; nil when none was made
	Err      error // why no further try was made; nil after a single try
}

// Error names the socket, the last failure and why trying ended.
func (e *DialError) Error() string {
	msg := fmt.Sprintf("connect to %s", e.Path)
	if e.Err != nil {
		msg += fmt.Sprintf(": %v after %d attempts", e.Err, e.Attempts)
	}
	if e.Last != nil {
		msg += fmt.Sprintf(": %v", e.Last)
	}
	return msg
}

// Unwrap returns both why trying ended and what the last try met.
func (e *DialError) Unwrap() []error {
	var errs []error
	for _, err := range []error{e.Err, e.Last} {
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// IsDuplicate reports whether osqueryd refused a registration because an
// extension of the same name is registered. Deregister the stale one first.
func IsDuplicate(err error) bool {
	return refused(err, "Duplicate extension registered")
}

// IsDuplicateItem reports whether osqueryd refused a registration because one of
// its plugins (a table, for instance) has a name that is taken already.
func IsDuplicateItem(err error) bool {
	return refused(err, "conflicts with another item") || refused(err, "Duplicate registry item") // the latter up to 5.5 at least
}

// IsNotRegistered reports whether osqueryd refused to deregister a UUID that it
// does not hold: there is nothing left to do.
func IsNotRegistered(err error) bool {
	return refused(err, "No extension UUID found")
}

func refused(err error, text string) bool {
	var status *StatusError
	return errors.As(err, &status) && strings.Contains(status.Message, text)
}
