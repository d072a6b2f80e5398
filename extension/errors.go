package extension

import (
	"errors"
	"fmt"
	"time"
)

// The errors a Transport speaks in. Wrap them, with %w, to add what happened.
var (
	// ErrNodeInvalid says that the server does not know the node key: the
	// instance enrols again, once, whoever asked, and repeats the call.
	ErrNodeInvalid = errors.New("the server does not accept this node key")
	// ErrPermanent says that the same call cannot succeed later. A batch of logs is cut
	// in half until the lines that are refused stand alone; those go to the dead-letter
	// file and are announced, as are results. Nothing of the batch should have been taken.
	ErrPermanent = errors.New("permanent failure, not to be tried again")
	// ErrTooLarge says that the server did not take a batch because of its size. The
	// batch is cut in half, and each half has an id of its own; one line that is too
	// large is treated like ErrPermanent. Only return it when it is certain that
	// nothing of the batch was taken, such as for HTTP status 413.
	ErrTooLarge = errors.New("too large for the server")
	// ErrUnsupported says that a transport does not do this at all.
	ErrUnsupported = errors.New("not supported by this transport")
)

// RetryAfterError says when to try again at the earliest.
type RetryAfterError struct {
	After time.Duration
	Err   error
}

// RetryAfter wraps err: not before d from now. More than a day counts as a day.
func RetryAfter(d time.Duration, err error) error {
	return &RetryAfterError{After: d, Err: err}
}

// Error gives the wrapped text and the wait.
func (e *RetryAfterError) Error() string {
	return fmt.Sprintf("%v (retry after %v)", e.Err, e.After)
}

// Unwrap gives the wrapped error.
func (e *RetryAfterError) Unwrap() error { return e.Err }

// ErrConfigSetAside is what a config is refused with that osqueryd died with twice.
var ErrConfigSetAside = errors.New("the config is set aside, because osqueryd died twice while it was on probation")
