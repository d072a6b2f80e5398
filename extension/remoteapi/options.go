package remoteapi

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/textproto"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/osqvisor/osqvisor/extension"
)

// Option configures a [Client]. Options are applied in order.
type Option func(*settings) error

type settings struct {
	endpoints Endpoints
	header    http.Header
	gzip      bool
	secret    secretFunc
	limits    Limits
	quirks    Quirks
	tls       *tls.Config
	proxy     func(*http.Request) (*url.URL, error)
	proxySet  bool
	client    *http.Client
}

func defaults() settings {
	return settings{
		endpoints: FleetEndpoints(),
		header:    http.Header{},
		limits:    Limits{Answer: 8 << 20, Config: 16 << 20, RetryAfter: time.Hour},
		quirks: Quirks{
			ConfigSource:      "tls_plugin",
			PermanentStatuses: []int{http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity},
		},
		proxy: http.ProxyFromEnvironment,
	}
}

// conflicts reports options that would have no effect, which is worse than an error.
func (s *settings) conflicts(server *url.URL) error {
	var errs []error
	if s.client != nil && s.tls != nil {
		errs = append(errs, errors.New("WithTLS: no effect with WithHTTPClient; configure the client's Transport"))
	}
	if s.client != nil && s.proxySet {
		errs = append(errs, errors.New("WithProxy: no effect with WithHTTPClient; configure the client's Transport"))
	}
	if server != nil && server.Scheme == "http" && s.tls != nil {
		errs = append(errs, errors.New("WithTLS: no effect on an http server"))
	}
	return errors.Join(errs...)
}

// WithEndpoints replaces all paths of the API; default: [FleetEndpoints].
func WithEndpoints(e Endpoints) Option {
	return func(s *settings) error {
		if e == (Endpoints{}) {
			return errors.New("WithEndpoints: no endpoint at all")
		}
		s.endpoints = e
		return nil
	}
}

// ForOsctrl uses osctrl's paths for an environment, which is a UUID or a name.
func ForOsctrl(environment string) Option {
	return func(s *settings) error {
		if strings.Trim(environment, ". ") == "" || strings.Contains(environment, "/") {
			return fmt.Errorf("ForOsctrl: %q is not the UUID or name of an environment", environment)
		}
		s.endpoints = osctrlEndpoints(environment)
		return nil
	}
}

// ForSGT uses SGT's paths and sets Quirks.EmptyAck and Quirks.StringStatuses. SGT has no
// path for logs: PublishLogs returns extension.ErrUnsupported.
func ForSGT() Option {
	return func(s *settings) error {
		s.endpoints = sgtEndpoints()
		return s.quirks.add(Quirks{EmptyAck: true, StringStatuses: true})
	}
}

// WithHeader adds a header to every request, for a gateway, or to replace User-Agent or
// Authorization (the node key). Other headers of the protocol are refused. Its value never
// appears in errors.
func WithHeader(name, value string) Option {
	return func(s *settings) error {
		name := textproto.CanonicalMIMEHeaderKey(name)
		switch name {
		case "", "Host", "Content-Length", "Content-Type", "Content-Encoding", "Transfer-Encoding", "Accept",
			"Accept-Encoding", "Connection", HeaderBatchID, HeaderBatch, HeaderSignature:
			return fmt.Errorf("WithHeader: %q cannot be set this way", name)
		}
		if strings.ContainsAny(name, " \t\r\n:") || strings.ContainsAny(value, "\r\n\x00") {
			return fmt.Errorf("WithHeader: %q is not a valid header", name)
		}
		s.header.Add(name, value)
		return nil
	}
}

// WithGzip compresses the bodies of log calls, like osquery's logger_tls_compress. The server
// must support it.
func WithGzip() Option {
	return func(s *settings) error { s.gzip = true; return nil }
}

// WithTLS sets the TLS configuration, which is copied; default: the system's roots.
// [TLSConfig] builds one. Versions before 1.2, and InsecureSkipVerify without
// VerifyConnection, are refused. HTTP/2 is used only if NextProtos contains "h2": without
// it, one instance's slow upload does not delay another's calls.
func WithTLS(config *tls.Config) Option {
	return func(s *settings) error {
		switch {
		case config == nil:
			return errors.New("WithTLS: nil config")
		case config.MinVersion != 0 && config.MinVersion < tls.VersionTLS12,
			config.MaxVersion != 0 && config.MaxVersion < tls.VersionTLS12:
			return errors.New("WithTLS: versions before TLS 1.2 are not supported")
		case config.InsecureSkipVerify && config.VerifyConnection == nil:
			return errors.New("WithTLS: InsecureSkipVerify without VerifyConnection accepts any server")
		}
		s.tls = config.Clone()
		return nil
	}
}

// WithProxy sets the function that returns each request's proxy; nil means no proxy.
// Default: http.ProxyFromEnvironment.
func WithProxy(f func(*http.Request) (*url.URL, error)) Option {
	return func(s *settings) error {
		s.proxy, s.proxySet = nil, true
		if f == nil {
			return nil
		}
		s.proxy = func(r *http.Request) (*url.URL, error) {
			u, err := f(r)
			if err != nil {
				err = localError{err}
			}
			return u, err
		}
		return nil
	}
}

// WithHTTPClient sends requests with this client, which is copied. TLS, proxies,
// and connections are then up to it.
func WithHTTPClient(client *http.Client) Option {
	return func(s *settings) error {
		if client == nil {
			return errors.New("WithHTTPClient: nil client")
		}
		s.client = client
		return nil
	}
}

// EnrollSecret is where the enroll secret comes from; exactly one field is set.
type EnrollSecret struct {
	Value string
	// File is the path of a file with the secret, read at each enrolment without white space
	// around it. It may be created later.
	File string
	// Func returns an instance's secret at each enrolment. It must be safe for concurrent use
	// and return when its context ends.
	Func func(context.Context, extension.Node) (string, error)
}

type secretFunc func(context.Context, extension.Node) (string, error)

// WithEnrollSecret sets the enroll secret; default: an empty one, for servers that
// authenticate client certificates.
func WithEnrollSecret(secret EnrollSecret) Option {
	return func(s *settings) error {
		if s.secret != nil {
			return errors.New("WithEnrollSecret: set twice")
		}
		n := 0
		if secret.Value != "" {
			n++
			s.secret = func(context.Context, extension.Node) (string, error) { return secret.Value, nil }
		}
		if secret.File != "" {
			n++
			s.secret = secretFile(secret.File)
		}
		if secret.Func != nil {
			n++
			s.secret = secret.Func
		}
		if n != 1 {
			return fmt.Errorf("WithEnrollSecret: %d of Value, File and Func are set; set exactly one", n)
		}
		return nil
	}
}

const maxSecretFile = 64 << 10 // bytes

// secretFile reads the file anew each time: secrets are rotated.
func secretFile(path string) secretFunc {
	return func(context.Context, extension.Node) (string, error) {
		f, err := os.Open(path)
		if err != nil {
			return "", fmt.Errorf("enroll secret: %w", err)
		}
		defer f.Close()
		data, err := io.ReadAll(io.LimitReader(f, maxSecretFile+1))
		if err != nil {
			return "", fmt.Errorf("enroll secret: %w", err)
		}
		secret := strings.TrimSpace(string(data))
		if secret == "" || len(data) > maxSecretFile {
			return "", fmt.Errorf("enroll secret: %s is empty or larger than %d bytes", path, maxSecretFile)
		}
		return secret, nil
	}
}

// Limits bounds what a server can make a Client do. A zero field means its default.
type Limits struct {
	// Answer is the maximum size of an answer after decompression, except to config calls:
	// 1 byte to 1 GiB, default 8 MiB.
	Answer int64
	// Config is the maximum size of a config: 1 byte to 1 GiB, default 16 MiB.
	Config int64
	// RetryAfter is the longest Retry-After that is respected: 1 s to 24 h, default 1 h.
	RetryAfter time.Duration
	// Timeout bounds a whole call: 1 ms to 1 h; default: the context's deadline, or 1 minute
	// without one. The extension allows up to eight times as long to a batch that timed out;
	// a timeout set here does not, and on a slow link can prevent its delivery.
	Timeout time.Duration
}

const (
	defaultTimeout = time.Minute // for calls whose context has no deadline
	maxAnyAnswer   = 1 << 30     // bytes; an answer is held in memory
)

// WithLimits sets the limits.
func WithLimits(l Limits) Option {
	return func(s *settings) error {
		var errs []error
		if l.Answer < 0 || l.Answer > maxAnyAnswer {
			errs = append(errs, fmt.Errorf("WithLimits: Answer %d is not between 1 and %d bytes", l.Answer, maxAnyAnswer))
		}
		if l.Config < 0 || l.Config > maxAnyAnswer {
			errs = append(errs, fmt.Errorf("WithLimits: Config %d is not between 1 and %d bytes", l.Config, maxAnyAnswer))
		}
		if l.RetryAfter != 0 && (l.RetryAfter < time.Second || l.RetryAfter > 24*time.Hour) {
			errs = append(errs, fmt.Errorf("WithLimits: RetryAfter %v is not between 1s and 24h", l.RetryAfter))
		}
		if l.Timeout != 0 && (l.Timeout < time.Millisecond || l.Timeout > time.Hour) {
			errs = append(errs, fmt.Errorf("WithLimits: Timeout %v is not between 1ms and 1h", l.Timeout))
		}
		s.limits = l.or(defaults().limits)
		return errors.Join(errs...)
	}
}

func (l Limits) or(other Limits) Limits {
	return Limits{
		Answer: cmp.Or(l.Answer, other.Answer), Config: cmp.Or(l.Config, other.Config),
		RetryAfter: cmp.Or(l.RetryAfter, other.RetryAfter), Timeout: cmp.Or(l.Timeout, other.Timeout),
	}
}

// Quirks adapts a Client to servers and gateways that differ from Fleet. The zero value
// changes nothing.
type Quirks struct {
	// EmptyAck accepts an empty 2xx answer to logs and results, which may come from a proxy.
	EmptyAck bool
	// StringStatuses sends the statuses of results as strings, as osquery once did.
	StringStatuses bool
	// NoNodeKeyHeader omits "Authorization: NodeKey …", as before osquery 5.23.
	NoNodeKeyHeader bool
	// NoBatchHeaders omits HeaderBatchID, HeaderBatch and HeaderSignature.
	NoBatchHeaders bool
	// PermanentStatuses are the statuses that mean extension.ErrPermanent: any 4xx except 408
	// and 429; default 413 and 422; an empty slice that is not nil means none.
	PermanentStatuses []int
	// ConfigSource is the name of a config's one source; default "tls_plugin".
	ConfigSource string
	// InsecureHTTP allows http, which sends secrets unencrypted: for tests.
	InsecureHTTP bool
}

// WithQuirks adds quirks to those set before, such as by [ForSGT].
func WithQuirks(q Quirks) Option {
	return func(s *settings) error { return s.quirks.add(q) }
}

func (q *Quirks) add(other Quirks) error {
	for _, status := range other.PermanentStatuses {
		if status < 400 || status > 499 || status == http.StatusTooManyRequests || status == http.StatusRequestTimeout {
			return fmt.Errorf("WithQuirks: PermanentStatuses: %d is not a permanent client error (4xx, not 408 or 429)", status)
		}
	}
	if other.PermanentStatuses != nil {
		q.PermanentStatuses = slices.Clone(other.PermanentStatuses)
	}
	q.ConfigSource = cmp.Or(other.ConfigSource, q.ConfigSource)
	q.EmptyAck = q.EmptyAck || other.EmptyAck
	q.StringStatuses = q.StringStatuses || other.StringStatuses
	q.NoNodeKeyHeader = q.NoNodeKeyHeader || other.NoNodeKeyHeader
	q.NoBatchHeaders = q.NoBatchHeaders || other.NoBatchHeaders
	q.InsecureHTTP = q.InsecureHTTP || other.InsecureHTTP
	return nil
}
