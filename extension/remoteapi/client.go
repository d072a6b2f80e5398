package remoteapi

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/osqvisor/osqvisor/extension"
)

// Client is a connection to one server. It is an [extension.Transport], an
// [extension.Enroller] and an [extension.Carver], holds no state of any instance,
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
	_ extension.Carver    = (*Client)(nil)
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
