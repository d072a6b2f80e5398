package remoteapi

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/osqvisor/osqvisor/extension"
)

// Client calls one server. It is an [extension.Transport] and an [extension.Enroller],
// holds no state of any instance, and may be used by many instances and goroutines at once.
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

// New returns a Client for a server, "https://host[:port][/prefix]" or osquery's own
// "host[:port]". It does not connect yet. It reports all mistakes at once.
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
	u, err := parseServer(server, s.quirks.InsecureHTTP)
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

// CloseIdleConnections closes the connections that no call uses. The Client stays usable.
func (c *Client) CloseIdleConnections() { c.http.CloseIdleConnections() }

func (s *settings) httpClient() *http.Client {
	client := &http.Client{}
	if s.client != nil {
		*client = *s.client
	} else {
		client.Transport = s.transport()
	}
	client.CheckRedirect = sameHostOnly
	return client
}

func (s *settings) transport() *http.Transport {
	config := s.tls
	if config == nil {
		config = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	dialer := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}
	t := &http.Transport{
		Proxy:                  s.proxy,
		DialContext:            dialer.DialContext,
		TLSHandshakeTimeout:    10 * time.Second,
		TLSClientConfig:        config,
		MaxIdleConns:           128,
		MaxIdleConnsPerHost:    64, // a few for each of many instances
		IdleConnTimeout:        90 * time.Second,
		MaxResponseHeaderBytes: 256 << 10,
	}
	if slices.Contains(config.NextProtos, "h2") {
		t.ForceAttemptHTTP2 = true
		// Without pings a connection that died while the host slept is used until
		// the timeout, by every instance.
		t.HTTP2 = &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 10 * time.Second}
	} else {
		t.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
	}
	return t
}

// Config returns the config: the answer's bytes under the name of its one source.
func (c *Client) Config(ctx context.Context, node extension.Node) (map[string]string, error) {
	got, err := c.post(ctx, request{call: callConfig, node: node, body: keyBody(node.Key)})
	if err != nil {
		return nil, err
	}
	return map[string]string{c.quirks.ConfigSource: string(got.raw)}, nil
}

// Queries returns the distributed queries to run now.
func (c *Client) Queries(ctx context.Context, node extension.Node) (extension.QuerySet, error) {
	got, err := c.post(ctx, request{call: callRead, node: node, body: keyBody(node.Key)})
	if err != nil {
		return extension.QuerySet{}, err
	}
	return parseQueries(got.fields)
}

// WriteResults delivers results.
func (c *Client) WriteResults(ctx context.Context, node extension.Node, results []extension.Result) error {
	if len(results) == 0 {
		return nil
	}
	b, err := resultsBody(node.Key, results, c.quirks.StringStatuses)
	if err != nil {
		return fmt.Errorf("remoteapi: %s: encode: %w", callWrite, err)
	}
	_, err = c.post(ctx, request{call: callWrite, node: node, body: b, lines: len(results)})
	return err
}

// Enroll returns a new node key. Its errors are never extension.ErrNodeInvalid.
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

// identify returns the name to enrol with: the one that osqueryd logs under. It is never a
// guess: two nodes of one name invalidate each other's keys, and enrol again and again.
func identify(req extension.EnrollRequest) (string, error) {
	if name := cmp.Or(req.Node.HostIdentifier, req.HostDetails["osquery_info"]["instance_id"]); name != "" {
		return name, nil
	}
	return "", fmt.Errorf("no host identifier for instance %q: osqueryd has not reported its instance_id; "+
		"set instance.WithHostIdentifier, or try again when osqueryd runs", req.Node.Instance)
}

// The headers of a log call.
const (
	// HeaderBatchID is the header of the batch's ID, percent-encoded but for visible ASCII.
	HeaderBatchID = "Idempotency-Key"
	// HeaderBatch is the header of queue, numbers and epoch: "queue=results; first=1; last=20; epoch=…".
	HeaderBatch = "Osqvisor-Batch"
	// HeaderSignature is the header of the batch's signature in base64.
	HeaderSignature = "Osqvisor-Signature"
)

// PublishLogs delivers a batch: results and snapshots as log_type "result", status lines as
// "status".
func (c *Client) PublishLogs(ctx context.Context, node extension.Node, batch extension.Batch) error {
	if len(batch.Lines) == 0 {
		return nil
	}
	req := request{
		call: callLog, node: node, body: logBody(node.Key, batch), header: http.Header{}, lines: len(batch.Lines),
	}
	if !c.quirks.NoBatchHeaders {
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
