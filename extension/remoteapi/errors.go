package remoteapi

import (
	"errors"
	"fmt"
)

// ErrPin says that no certificate of the server's chain has a pinned public key.
var ErrPin = errors.New("no certificate of the server has a pinned public key")

// errTooSlow is the cause with which a call's own timeout ends it.
var errTooSlow = errors.New("no whole answer within the timeout")

// StatusError is an answer whose HTTP status is not 2xx.
type StatusError struct {
	// Call is the call that was answered, such as "log".
	Call string
	// Status is the HTTP status code.
	Status int
	// ContentType is the answer's media type: application/json, text/html, text/plain,
	// "other" or, when there is none, empty. An HTML page usually comes from a proxy on
	// the way.
	ContentType string
	// Message says, in words of this package, what the answer's "error" or "message" key
	// is about, or why a redirect was refused; it may be empty. It quotes nothing.
	Message string
}

// Error says which call was answered with what.
func (e *StatusError) Error() string {
	text := fmt.Sprintf("remoteapi: %s: the server answered %d", e.Call, e.Status)
	if e.Message != "" {
		return text + ": " + e.Message
	}
	if e.ContentType == "text/html" {
		return text + " with an HTML page; a proxy may have answered in its place"
	}
	return text
}

// Reason says why an answer could not be used.
type Reason string

// The reasons of an [AnswerError].
const (
	// ReasonEmpty: a 2xx status without a body, 204 among them.
	ReasonEmpty Reason = "empty"
	// ReasonNotJSON: the body is not a JSON document, such as an HTML page.
	ReasonNotJSON Reason = "not JSON"
	// ReasonWrongType: JSON, but not of the shape that the call answers with.
	ReasonWrongType Reason = "wrong type"
	// ReasonTooLarge: more bytes than WithMaxAnswer or WithMaxConfig allow.
	ReasonTooLarge Reason = "too large"
	// ReasonTimeout: not there as a whole within WithTimeout.
	ReasonTimeout Reason = "too slow"
	// ReasonBroken: the connection ended within the answer.
	ReasonBroken Reason = "cut short"
	// ReasonRefused: the server says no, by an "error" key or, when enrolling, by
	// "node_invalid" without a key.
	ReasonRefused Reason = "refused"
)

// AnswerError is an answer, or the lack of one, that cannot be used although
// nothing is known against repeating the call.
type AnswerError struct {
	// Call is the call that was answered, such as "config".
	Call string
	// Reason says what was wrong.
	Reason Reason
	// Detail adds what is known, and quotes nothing that the server sent; it may be empty.
	Detail string
	// Err is the underlying error, or nil.
	Err error
}

// Error says which call was answered with what.
func (e *AnswerError) Error() string {
	text := fmt.Sprintf("remoteapi: %s: unusable answer: %s", e.Call, e.Reason)
	if e.Detail != "" {
		text += ": " + e.Detail
	}
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

// Unwrap gives the underlying error.
func (e *AnswerError) Unwrap() error { return e.Err }
