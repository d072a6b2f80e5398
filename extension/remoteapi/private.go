package remoteapi

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
)

// subjects are what a server's message may be about, most telling first. An error names
// the subject in these words, and never quotes the message: a server may have put a secret
// into it, in a form that no search would find.
var subjects = []struct {
	says  string
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

// mentions says what a server's message is about; "" when it is about nothing known.
func mentions(message string) string {
	message = strings.ToLower(message)
	for _, subject := range subjects {
		for _, sign := range subject.signs {
			if strings.Contains(message, sign) {
				return "its message mentions " + subject.says
			}
		}
	}
	return ""
}

// knownType reduces a media type, which a server may write anything into, to one of four.
func knownType(contentType string) string {
	media, _, _ := strings.Cut(contentType, ";")
	switch media = strings.ToLower(strings.TrimSpace(media)); media {
	case "", "application/json", "text/html", "text/plain":
		return media
	}
	return "other"
}

// private hides the text of an error that may quote what a server sent, and still is what
// the error was by errors.Is.
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

// describe says in our own words what went wrong on the way; of the error's it takes only
// what comes from this side: addresses, the system's own errors, what TLS has numbers for.
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
		return "it took too long"
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
