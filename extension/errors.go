package extension

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Errors that a Transport returns, alone or wrapped.
var (
	// ErrNodeInvalid means that the server does not know the node key: the
	// instance enrols again, once, whichever call got it, and repeats the call.
	ErrNodeInvalid = errors.New("the server does not accept this node key")
	// ErrPermanent means that the same call cannot succeed later. A batch of logs is cut
	// in half until the lines that are refused stand alone; those go to the dead-letter
	// file and are announced, as are results. Nothing of the batch should have been accepted.
	ErrPermanent = errors.New("permanent failure, not to be tried again")
	// ErrTooLarge means that the server did not accept a batch because of its size. The
	// batch is cut in half, and each half has an id of its own; one line that is too
	// large is treated like ErrPermanent. Return it only when nothing of the batch was
	// accepted, such as for HTTP status 413.
	ErrTooLarge = errors.New("too large for the server")
	// ErrUnsupported means that a transport does not do this at all.
	ErrUnsupported = errors.New("not supported by this transport")
)

// RetryAfterError sets when to try again at the earliest.
type RetryAfterError struct {
	After time.Duration
	Err   error
}

// RetryAfter wraps err: not before d from now. More than a day counts as a day.
func RetryAfter(d time.Duration, err error) error {
	return &RetryAfterError{After: d, Err: err}
}

// Error returns the wrapped text and the wait.
func (e *RetryAfterError) Error() string {
	return fmt.Sprintf("%v (retry after %v)", e.Err, e.After)
}

// Unwrap returns the wrapped error.
func (e *RetryAfterError) Unwrap() error { return e.Err }

// ErrConfigSetAside is what a config is refused with that osqueryd died with twice.
var ErrConfigSetAside = errors.New("the config is set aside, because osqueryd died twice while it was on probation")

// StatusError returns what an HTTP status means to an instance, for transports that speak HTTP;
// header and detail, such as the beginning of the body, are those of the answer. It returns nil for
// 2xx. Every other error has the status and detail in its text, and is
//
//   - a [RetryAfterError] when there is a Retry-After header, whatever the status; a date in it is
//     compared with the answer's own Date;
//   - [ErrNodeInvalid] for 401: the instance enrols again, if the transport is an [Enroller]. 403 is
//     not, since gateways answer so for reasons that a new node key does not change;
//   - [ErrTooLarge] for 413;
//   - [ErrPermanent] for 400, 415 and 422, which are about what was sent;
//   - else a plain error, which is tried again. 404, 405 and 410 are among them: they are mistakes
//     of an address or a deployment, which must not cost log lines.
//
// A server that means something else by a status needs a line before the call of StatusError.
func StatusError(code int, header http.Header, detail string) error {
	if code >= 200 && code < 300 {
		return nil
	}
	text := fmt.Sprintf("the server answered %d", code)
	if name := http.StatusText(code); name != "" {
		text += " " + name
	}
	if detail = strings.TrimSpace(detail); detail != "" {
		text += ": " + detail
	}
	if wait := retryAfterHeader(header); wait > 0 {
		return RetryAfter(wait, errors.New(text))
	}
	switch code {
	case http.StatusUnauthorized:
		return fmt.Errorf("%w: %s", ErrNodeInvalid, text)
	case http.StatusRequestEntityTooLarge:
		return fmt.Errorf("%w: %s", ErrTooLarge, text)
	case http.StatusBadRequest, http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity:
		return fmt.Errorf("%w: %s", ErrPermanent, text)
	}
	return errors.New(text)
}

// retryAfterHeader reads both forms of Retry-After; 0 means none that can be used. A date is read
// by the clock that wrote it, which the answer's own date shows.
func retryAfterHeader(h http.Header) time.Duration {
	value := strings.TrimSpace(h.Get("Retry-After"))
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	now, err := http.ParseTime(h.Get("Date"))
	if err != nil {
		now = time.Now()
	}
	return max(at.Sub(now), 0)
}
