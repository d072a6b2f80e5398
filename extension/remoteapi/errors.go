package remoteapi

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
)

// ErrPin is the error if no certificate of the server's chain is in TLSConfig.Pins.
var ErrPin = errors.New("no certificate of the server has a pinned public key")

// errTooSlow is the cause with which a call's own timeout ends it.
var errTooSlow = errors.New("no whole answer within the timeout")

// StatusError is an answer whose HTTP status is not 2xx.
type StatusError struct {
	Call   string // such as "log"
	Status int
	// ContentType is application/json, text/html, text/plain, "other" or empty.
	ContentType string
	// Message describes the answer's message, or why a redirect was refused; it may be empty.
	Message string
}

// Error implements error.
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

// Reason is why an answer could not be used.
type Reason string

// The reasons of an [AnswerError].
const (
	ReasonEmpty     Reason = "empty"      // such as 204
	ReasonNotJSON   Reason = "not JSON"   // such as an HTML page
	ReasonWrongType Reason = "wrong type" // JSON of another type
	ReasonTooLarge  Reason = "too large"  // see Limits
	ReasonTimeout   Reason = "too slow"   // see Limits.Timeout
	ReasonBroken    Reason = "cut short"  // the connection ended within the answer
	ReasonRefused   Reason = "refused"    // by an "error" key, or when enrolling
)

// AnswerError is an answer that cannot be used, or the lack of one.
type AnswerError struct {
	Call   string // such as "config"
	Reason Reason
	// Detail adds to Reason; it may be empty.
	Detail string
	Err    error // the underlying error, or nil
}

// Error implements error.
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

// Unwrap returns Err.
func (e *AnswerError) Unwrap() error { return e.Err }

// subjects are what a server's message may be about, the most specific first. An error names
// the subject and never quotes the message, which may contain a secret in some encoding.
var subjects = []struct {
	name  string
	signs []string // in lower case
}{
	{"the enroll secret", []string{"secret"}},
	{"the node key", []string{"node key", "node_key", "nodekey", "node-key", "node is invalid", "invalid node", "node not found"}},
	{"a limit of its own", []string{"rate limit", "too many", "limit exceeded", "quota", "throttl"}},
	{"a certificate", []string{"certificate"}},
	{"a size", []string{"too large", "too big", "too long"}},
	{"the environment or team", []string{"environment", "team"}},
	{"its database", []string{"database", "sql", "postgres", "redis"}},
	{"what it could not read", []string{"json", "parse", "unmarshal", "decode", "malformed"}},
	{"a missing permission", []string{"unauthorized", "forbidden", "permission", "denied", "not allowed"}},
	{"something that it did not find", []string{"not found", "unknown", "no such"}},
}

// mentions returns what a server's message is about, or "" if that is unknown.
func mentions(message string) string {
	message = strings.ToLower(message)
	for _, subject := range subjects {
		for _, sign := range subject.signs {
			if strings.Contains(message, sign) {
				return "its message mentions " + subject.name
			}
		}
	}
	return ""
}

// knownType reduces a media type, which may be any text, to one of four.
func knownType(contentType string) string {
	media, _, _ := strings.Cut(contentType, ";")
	switch media = strings.ToLower(strings.TrimSpace(media)); media {
	case "", "application/json", "text/html", "text/plain":
		return media
	}
	return "other"
}

// private hides the text of an error that may quote what a server sent; errors.Is still works.
func private(err error) error {
	if err == nil {
		return nil
	}
	return &privateError{text: describe(err), is: func(target error) bool { return errors.Is(err, target) }}
}

type privateError struct {
	text string
	is   func(target error) bool
}

func (e *privateError) Error() string        { return e.text }
func (e *privateError) Is(target error) bool { return e.is(target) }

// describe returns a text for an error. It quotes only what comes from this side: addresses,
// the system's own errors, and TLS alerts, which are numbers.
func describe(err error) string {
	if text := describeTLS(err); text != "" {
		return text
	}
	var name *net.DNSError
	var local localError
	switch {
	case errors.As(err, &local):
		return local.Error()
	case errors.As(err, &name):
		return name.Error()
	}
	var code syscall.Errno
	var op *net.OpError
	switch {
	case errors.As(err, &op) && errors.As(err, &code):
		return (&net.OpError{Op: op.Op, Net: op.Net, Source: op.Source, Addr: op.Addr, Err: code}).Error()
	case errors.As(err, &code):
		return code.Error()
	case errors.Is(err, context.Canceled):
		return context.Canceled.Error()
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded), timedOut(err):
		return "timed out"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "the connection was closed"
	}
	return "the connection broke, or what answered does not speak HTTP as it should"
}

// localError is an error of this side, which may be shown.
type localError struct{ error }

func (e localError) Unwrap() error { return e.error }

func timedOut(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout()
}

func describeTLS(err error) string {
	var (
		unknown x509.UnknownAuthorityError
		host    x509.HostnameError
		invalid x509.CertificateInvalidError
		alert   tls.AlertError
		record  tls.RecordHeaderError
	)
	switch {
	case errors.Is(err, ErrPin):
		return ErrPin.Error()
	case errors.As(err, &unknown):
		return "the server's certificate is signed by an unknown authority"
	case errors.As(err, &host):
		return "the server's certificate is not for " + host.Host
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "the server's certificate has expired or is not valid yet"
	case errors.As(err, &invalid):
		return "the server's certificate is not valid"
	case errors.As(err, &alert):
		return alert.Error()
	case errors.As(err, &record):
		return "what answered does not speak TLS"
	}
	return ""
}
