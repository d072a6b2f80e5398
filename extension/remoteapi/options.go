package remoteapi

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/textproto"
	"net/url"
	"strings"
	"time"

	"github.com/osqvisor/osqvisor/extension"
)

// Option changes a [Client] under construction. Options are applied in order; a
// wrong one is reported by [New] with its name.
type Option func(*settings) error

type secretFunc func(context.Context, extension.Node) (string, error)

type settings struct {
	endpoints      Endpoints
	header         http.Header
	userAgent      string
	nodeKeyHeader  bool
	batchHeaders   bool
	gzip           bool
	emptyAck       map[call]bool
	stringStatuses bool
	configSource   string
	secret         secretFunc
	secretOption   string

	timeout       time.Duration // 0: the caller's deadline, else defaultTimeout
	maxRetryAfter time.Duration
	maxAnswer     int64 // bytes
	maxConfig     int64 // bytes
	permanent     map[int]bool

	insecure     bool
	http2        bool
	proxy        func(*http.Request) (*url.URL, error)
	roots        *x509.CertPool
	clientCert   func(*tls.CertificateRequestInfo) (*tls.Certificate, error)
	serverName   string
	pins         map[[sha256.Size]byte]bool
	connOptions  []string // names of options that shape our own connections
	tlsOptions   []string // those among them that only TLS gives a meaning
	client       *http.Client
	roundTripper http.RoundTripper
}

func defaults() settings {
	return settings{
		endpoints:     FleetEndpoints(),
		header:        http.Header{},
		nodeKeyHeader: true,
		batchHeaders:  true,
		configSource:  "tls_plugin",
		maxRetryAfter: time.Hour,
		maxAnswer:     8 << 20,
		maxConfig:     16 << 20,
		permanent:     map[int]bool{http.StatusRequestEntityTooLarge: true, http.StatusUnprocessableEntity: true},
		proxy:         http.ProxyFromEnvironment,
		pins:          map[[sha256.Size]byte]bool{},
		emptyAck:      map[call]bool{},
	}
}

// conflicts finds options that would be without effect, which is worse than an error.
func (s *settings) conflicts(server *url.URL) error {
	var errs []error
	if s.client != nil && s.roundTripper != nil {
		errs = append(errs, errors.New("WithHTTPClient and WithRoundTripper: set the client's Transport instead"))
	}
	if (s.client != nil || s.roundTripper != nil) && len(s.connOptions) > 0 {
		errs = append(errs, fmt.Errorf("%s: without effect with WithHTTPClient or WithRoundTripper; configure the injected one",
			strings.Join(s.connOptions, ", ")))
	}
	if server != nil && server.Scheme == "http" && len(s.tlsOptions) > 0 {
		errs = append(errs, fmt.Errorf("%s: without effect on an http server", strings.Join(s.tlsOptions, ", ")))
	}
	return errors.Join(errs...)
}

// WithEndpoints replaces all paths. Start from [FleetEndpoints] to change one.
func WithEndpoints(e Endpoints) Option {
	return func(s *settings) error {
		if e == (Endpoints{}) {
			return errors.New("WithEndpoints: no endpoint at all")
		}
		s.endpoints = e
		return nil
	}
}

// ForOsctrl is for an osctrl server: [OsctrlEndpoints] of an environment.
func ForOsctrl(environment string) Option {
	return func(s *settings) error {
		if strings.Trim(environment, ". ") == "" || strings.Contains(environment, "/") {
			return fmt.Errorf("ForOsctrl: %q is not the UUID or name of an environment", environment)
		}
		s.endpoints = OsctrlEndpoints(environment)
		return nil
	}
}

// ForSGT is for an SGT server: [SGTEndpoints], statuses of results as strings, and
// what [WithEmptyAck] does for results alone: it has no other words for having taken
// them, but answers nothing to a carve block that it could not store.
func ForSGT() Option {
	return func(s *settings) error {
		s.endpoints, s.stringStatuses, s.emptyAck[callWrite] = SGTEndpoints(), true, true
		return nil
	}
}

// WithHeader sends a header with every request, for a gateway in front of the
// server for example. Values are kept out of errors. "Authorization" replaces the
// node key's; headers that belong to the protocol are refused. May be repeated.
func WithHeader(name, value string) Option {
	return func(s *settings) error {
		name := textproto.CanonicalMIMEHeaderKey(name)
		switch name {
		case "", "Host", "Content-Length", "Content-Type", "Content-Encoding", "Transfer-Encoding", "Accept",
			"Accept-Encoding", "User-Agent", "Connection", HeaderBatchID, HeaderBatch, HeaderSignature:
			return fmt.Errorf("WithHeader: %q cannot be set this way", name)
		}
		if strings.ContainsAny(name, " \t\r\n:") || strings.ContainsAny(value, "\r\n\x00") {
			return fmt.Errorf("WithHeader: %q is not a valid header", name)
		}
		s.header.Add(name, value)
		return nil
	}
}

// WithUserAgent replaces the User-Agent, by default "osquery/" and the version of
// the instance's osqueryd.
func WithUserAgent(agent string) Option {
	return func(s *settings) error {
		if agent == "" || strings.ContainsAny(agent, "\r\n\x00") {
			return errors.New("WithUserAgent: empty, or not valid in a header")
		}
		s.userAgent = agent
		return nil
	}
}

// WithoutNodeKeyHeader leaves out "Authorization: NodeKey …", for gateways that
// stumble over it; the node key then travels in bodies alone, as before osquery 5.23.
func WithoutNodeKeyHeader() Option {
	return func(s *settings) error { s.nodeKeyHeader = false; return nil }
}

// WithoutBatchHeaders leaves out [HeaderBatchID], [HeaderBatch] and
// [HeaderSignature].
func WithoutBatchHeaders() Option {
	return func(s *settings) error { s.batchHeaders = false; return nil }
}

// WithGzip compresses the bodies of log calls, like osquery's logger_tls_compress.
// The server must understand it; Fleet and osctrl do.
func WithGzip() Option {
	return func(s *settings) error { s.gzip = true; return nil }
}

// WithEmptyAck takes an empty 2xx answer to logs, results and carve blocks for a
// success, for servers that answer nothing. Without it such an answer, which a
// proxy may give as well, is an [*AnswerError].
func WithEmptyAck() Option {
	return func(s *settings) error {
		s.emptyAck[callLog], s.emptyAck[callWrite] = true, true
		return nil
	}
}

// WithConfigSource names the one source that a config comes as; default
// "tls_plugin", as osquery calls it.
func WithConfigSource(name string) Option {
	return func(s *settings) error {
		if name == "" {
			return errors.New("WithConfigSource: empty name")
		}
		s.configSource = name
		return nil
	}
}

func (s *settings) setSecret(option string, f secretFunc) error {
	if s.secretOption != "" {
		return fmt.Errorf("%s: the enroll secret is set already by %s", option, s.secretOption)
	}
	s.secret, s.secretOption = f, option
	return nil
}

// WithEnrollSecret enrols with this secret. Without any of the three secret
// options an empty one is sent, for servers that go by client certificates.
func WithEnrollSecret(secret string) Option {
	return func(s *settings) error {
		if secret == "" {
			return errors.New("WithEnrollSecret: empty secret")
		}
		return s.setSecret("WithEnrollSecret", func(context.Context, extension.Node) (string, error) { return secret, nil })
	}
}

// WithEnrollSecretFile reads the secret from a file at each enrolment, without
// white space around it. The file may appear later; until then enrolling fails.
func WithEnrollSecretFile(path string) Option {
	return func(s *settings) error {
		if path == "" {
			return errors.New("WithEnrollSecretFile: empty path")
		}
		return s.setSecret("WithEnrollSecretFile", secretFile(path))
	}
}

// WithEnrollSecretFunc asks for the secret at each enrolment, so that each
// instance may have its own. The function may be called from several goroutines
// at once and must return when its context ends.
func WithEnrollSecretFunc(f func(context.Context, extension.Node) (string, error)) Option {
	return func(s *settings) error {
		if f == nil {
			return errors.New("WithEnrollSecretFunc: nil function")
		}
		return s.setSecret("WithEnrollSecretFunc", f)
	}
}

// defaultTimeout is for calls whose context has no deadline.
const defaultTimeout = time.Minute

// WithTimeout bounds a whole call, from dialling to the answer's last byte; from
// 1 ms to 1 hour. By default a call has the time that its context gives it, as each
// call of the extension has, and 1 minute when its context has no deadline.
//
// The extension gives a batch of logs that ran into extension.WithTransportTimeout
// up to eight times as much at its next tries, because what was sent once is not cut
// smaller. A timeout from here takes that time away: on a link that is too slow for
// it, a batch is sent again and again and never arrives.
func WithTimeout(d time.Duration) Option {
	return func(s *settings) error {
		if d < time.Millisecond || d > time.Hour {
			return fmt.Errorf("WithTimeout: %v is not between 1ms and 1h", d)
		}
		s.timeout = d
		return nil
	}
}

// WithMaxRetryAfter bounds what a server's Retry-After can demand; default 1 hour,
// from 1 second to 24 hours.
func WithMaxRetryAfter(d time.Duration) Option {
	return func(s *settings) error {
		if d < time.Second || d > 24*time.Hour {
			return fmt.Errorf("WithMaxRetryAfter: %v is not between 1s and 24h", d)
		}
		s.maxRetryAfter = d
		return nil
	}
}

const maxAnyAnswer = 1 << 30 // bytes; it is held in memory

// WithMaxAnswer bounds the answers to all calls but config, in bytes after
// decompression; default 8 MiB, from 1 to 1 GiB.
func WithMaxAnswer(bytes int64) Option {
	return func(s *settings) error {
		if bytes < 1 || bytes > maxAnyAnswer {
			return fmt.Errorf("WithMaxAnswer: %d is not between 1 and %d bytes", bytes, maxAnyAnswer)
		}
		s.maxAnswer = bytes
		return nil
	}
}

// WithMaxConfig bounds the answer to the config call, in bytes after
// decompression; default 16 MiB, from 1 to 1 GiB.
func WithMaxConfig(bytes int64) Option {
	return func(s *settings) error {
		if bytes < 1 || bytes > maxAnyAnswer {
			return fmt.Errorf("WithMaxConfig: %d is not between 1 and %d bytes", bytes, maxAnyAnswer)
		}
		s.maxConfig = bytes
		return nil
	}
}

// WithPermanentStatus replaces the list of statuses, 413 and 422 by default, that
// mean extension.ErrPermanent when they answer logs, results or carve blocks
// without Retry-After. With none, nothing is permanent. Only 4xx can be: every
// other status says nothing about the data. Whatever the list says, 413 to several
// log lines is extension.ErrTooLarge, and they are sent again in smaller batches.
func WithPermanentStatus(statuses ...int) Option {
	return func(s *settings) error {
		list := map[int]bool{}
		for _, status := range statuses {
			if status < 400 || status > 499 || status == http.StatusTooManyRequests || status == http.StatusRequestTimeout {
				return fmt.Errorf("WithPermanentStatus: %d is not a permanent client error (4xx, not 408 or 429)", status)
			}
			list[status] = true
		}
		s.permanent = list
		return nil
	}
}
