package remoteapi

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/osqvisor/osqvisor/extension"
)

// Client is a connection to one server. It is an [extension.Transport] and an
// [extension.Enroller], holds no state of any instance,
// and may be used by many instances and goroutines at once.
type Client struct {
	settings
	server *url.URL
	paths  map[call]string
	http   *http.Client
}

var (
	_ extension.Transport = (*Client)(nil)
	_ extension.Enroller  = (*Client)(nil)
)

// New makes a Client for a server, "https://host[:port][/prefix]" or osquery's
// own "host[:port]". It connects to nothing yet. All mistakes in server and
// options are reported at once, each with the option's name.
func New(server string, opts ...Option) (*Client, error) {
	s := defaults()
	var errs []error
	for i, opt := range opts {
		if opt == nil {
			errs = append(errs, fmt.Errorf("option %d is nil", i+1))
		} else if err := opt(&s); err != nil {
			errs = append(errs, err)
		}
	}
	u, err := parseServer(server, s.insecure)
	errs = append(errs, err, s.endpoints.check(), s.conflicts(u))
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("remoteapi: %w", err)
	}
	c := &Client{settings: s, server: u, paths: s.endpoints.byCall(), http: s.httpClient()}
	for name, path := range c.paths {
		if path != "" {
			c.paths[name] = u.String() + path
		}
	}
	return c, nil
}

// CloseIdleConnections closes connections that no call uses, with their
// goroutines. The Client stays usable.
func (c *Client) CloseIdleConnections() { c.http.CloseIdleConnections() }

func (s *settings) httpClient() *http.Client {
	client := &http.Client{}
	if s.client != nil {
		*client = *s.client
	}
	if s.roundTripper != nil {
		client.Transport = s.roundTripper
	} else if s.client == nil {
		client.Transport = s.transport()
	}
	client.CheckRedirect = sameHostOnly
	return client
}

func (s *settings) transport() *http.Transport {
	dialer := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}
	t := &http.Transport{
		Proxy:                  s.proxy,
		DialContext:            dialer.DialContext,
		TLSHandshakeTimeout:    10 * time.Second,
		TLSClientConfig:        s.tlsConfig(),
		MaxIdleConns:           128,
		MaxIdleConnsPerHost:    64, // a few for each of many instances
		IdleConnTimeout:        90 * time.Second,
		MaxResponseHeaderBytes: 256 << 10,
	}
	if s.http2 {
		t.ForceAttemptHTTP2 = true
		// Without pings a connection that died while the host slept is used until
		// the timeout, by every instance.
		t.HTTP2 = &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 10 * time.Second}
	} else {
		t.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
	}
	return t
}

// Config fetches the config; the answer's bytes are its one source. Errors are
// those of the package's page.
func (c *Client) Config(ctx context.Context, node extension.Node) (map[string]string, error) {
	got, err := c.post(ctx, request{call: callConfig, node: node, body: keyBody(node.Key)})
	if err != nil {
		return nil, err
	}
	return map[string]string{c.configSource: string(got.raw)}, nil
}

// Queries fetches the distributed queries to run now.
func (c *Client) Queries(ctx context.Context, node extension.Node) (extension.QuerySet, error) {
	got, err := c.post(ctx, request{call: callRead, node: node, body: keyBody(node.Key)})
	if err != nil {
		return extension.QuerySet{}, err
	}
	return parseQueries(got.fields)
}

// WriteResults delivers results; none at all is a success without a call.
func (c *Client) WriteResults(ctx context.Context, node extension.Node, results []extension.Result) error {
	if len(results) == 0 {
		return nil
	}
	b, err := resultsBody(node.Key, results, c.stringStatuses)
	if err != nil {
		return fmt.Errorf("remoteapi: %s: encode: %w", callWrite, err)
	}
	_, err = c.post(ctx, request{call: callWrite, node: node, body: b, lines: len(results)})
	return err
}

const maxSecretFile = 64 << 10 // bytes

// Enroll asks for a node key. A refusal is an [*AnswerError] or [*StatusError],
// never extension.ErrNodeInvalid: there is no key yet that could be invalid.
func (c *Client) Enroll(ctx context.Context, req extension.EnrollRequest) (string, error) {
	secret, err := c.enrollSecret(ctx, req.Node)
	if err != nil {
		return "", fmt.Errorf("remoteapi: %s: %w", callEnroll, err)
	}
	req.Node.Key = "" // an old key is no credential for a new one
	host, err := identify(req)
	if err != nil {
		return "", fmt.Errorf("remoteapi: %s: %w", callEnroll, err)
	}
	b, err := enrollBody(secret, host, req)
	if err != nil {
		return "", fmt.Errorf("remoteapi: %s: encode: %w", callEnroll, err)
	}
	got, err := c.post(ctx, request{call: callEnroll, node: req.Node, body: b})
	if err != nil {
		return "", err
	}
	return parseNodeKey(got.fields)
}

func (c *Client) enrollSecret(ctx context.Context, node extension.Node) (string, error) {
	if c.secret == nil {
		return "", nil
	}
	return c.secret(ctx, node)
}

// identify says what to enrol as: what osqueryd logs under. It is never a guess: nodes of
// one name take each other's node keys away, and enrol again and again.
func identify(req extension.EnrollRequest) (string, error) {
	if name := cmp.Or(req.Node.HostIdentifier, req.HostDetails["osquery_info"]["instance_id"]); name != "" {
		return name, nil
	}
	return "", fmt.Errorf("no host identifier for instance %q: osqueryd could not be asked for its instance_id; "+
		"set instance.WithHostIdentifier, or try again when osqueryd runs", req.Node.Instance)
}

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

// The headers that carry what the API's body has no field for.
const (
	// HeaderBatchID holds the batch's ID; bytes other than visible ASCII, and the
	// percent sign, are percent-encoded.
	HeaderBatchID = "Idempotency-Key"
	// HeaderBatch holds "queue=results; first=1; last=20; epoch=0123456789abcdef0123456789abcdef".
	HeaderBatch = "Osqvisor-Batch"
	// HeaderSignature holds the batch's signature in base64.
	HeaderSignature = "Osqvisor-Signature"
)

// PublishLogs delivers a batch: results and snapshots as log_type "result", status
// lines as "status". A batch without lines is a success without a call.
func (c *Client) PublishLogs(ctx context.Context, node extension.Node, batch extension.Batch) error {
	if len(batch.Lines) == 0 {
		return nil
	}
	req := request{
		call: callLog, node: node, body: logBody(node.Key, batch), header: http.Header{}, lines: len(batch.Lines),
	}
	if c.batchHeaders {
		setBatchHeader(req.header, batch)
	}
	if c.gzip {
		small, err := req.body.compress()
		if err != nil {
			return fmt.Errorf("remoteapi: %s: compress: %w", callLog, err)
		}
		req.body = small
		req.header.Set("Content-Encoding", "gzip")
	}
	_, err := c.post(ctx, req)
	return err
}

func setBatchHeader(h http.Header, b extension.Batch) {
	h.Set(HeaderBatchID, visible(b.ID))
	about := fmt.Sprintf("queue=%s; first=%d; last=%d", url.PathEscape(string(b.Queue)), b.First, b.Last)
	if b.Epoch != "" {
		about += "; epoch=" + url.PathEscape(b.Epoch)
	}
	h.Set(HeaderBatch, about)
	if len(b.Signature) > 0 {
		h.Set(HeaderSignature, base64.StdEncoding.EncodeToString(b.Signature))
	}
}

// visible percent-encodes what must not stand in a header.
func visible(s string) string {
	var out strings.Builder
	for i := range len(s) {
		if c := s[i]; c > ' ' && c < 0x7f && c != '%' {
			out.WriteByte(c)
		} else {
			fmt.Fprintf(&out, "%%%02X", c)
		}
	}
	return out.String()
}
