package remoteapi

import (
	"errors"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	redacted   = "[redacted]"
	maxMessage = 300 // bytes of a server's words in an error
)

// secrets are the values that must not show in an error of one call.
type secrets []string

// withHeader adds a header's values and, where a scheme such as Bearer stands before
// it, the credential alone: a server may echo it without the scheme.
func (s secrets) withHeader(values []string) secrets {
	for _, value := range values {
		s = append(s, value)
		if _, credential, found := strings.Cut(value, " "); found {
			s = append(s, strings.TrimSpace(credential))
		}
	}
	return s
}

// scrub takes the longest first: a short one may be a part of it.
func (s secrets) scrub(text string) string {
	longestFirst := slices.SortedFunc(slices.Values(s), func(a, b string) int { return len(b) - len(a) })
	for _, secret := range longestFirst {
		if secret != "" {
			text = strings.ReplaceAll(text, secret, redacted)
		}
	}
	return text
}

// message makes a server's words fit for an error: no secrets, no control
// characters, bounded. Secrets go first: a cut could otherwise leave half of one.
func (s secrets) message(text string) string {
	text = s.scrub(strings.ToValidUTF8(text, "\uFFFD"))
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, text)
	if len(text) <= maxMessage {
		return text
	}
	end := maxMessage
	for !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + "…"
}

// err gives err itself when its text is clean, which is nearly always; net/http
// quotes what a broken server sent, and that may be anything.
func (s secrets) err(err error) error {
	text := err.Error()
	if clean := s.scrub(text); clean != text {
		return &scrubbedError{clean, func(target error) bool { return errors.Is(err, target) }}
	}
	return err
}

// scrubbedError is still what the error was by errors.Is, but does not give it away:
// a header's value may be as short as a number, and then stands in many a text.
type scrubbedError struct {
	text string
	is   func(target error) bool
}

func (e *scrubbedError) Error() string        { return e.text }
func (e *scrubbedError) Is(target error) bool { return e.is(target) }
