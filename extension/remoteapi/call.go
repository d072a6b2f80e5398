package remoteapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/osqvisor/osqvisor/extension"
)

// call is the name of one call of the API, also in errors.
type call string

const (
	callEnroll call = "enroll"
	callConfig call = "config"
	callLog    call = "log"
	callRead   call = "distributed read"
	callWrite  call = "distributed write"
)

// reads reports whether the call only reads: it may be repeated when it is unknown whether
// it arrived.
func (c call) reads() bool { return c == callConfig || c == callRead }

// acknowledges reports whether the answer says no more than whether data was accepted.
func (c call) acknowledges() bool { return c == callLog || c == callWrite }

const maxFailureBody = 64 << 10 // bytes read of an answer that is not 2xx

// request is one call, ready to be sent.
type request struct {
	call   call
	node   extension.Node
	body   *body
	header http.Header
	lines  int // of a log call
}

// answer is what came back with a 2xx status.
type answer struct {
	fields fields
	raw    []byte
}

// post sends a request and judges the answer. It returns within its bound; after that,
// nothing reads the body's parts any more.
func (c *Client) post(parent context.Context, req request) (answer, error) {
	defer req.body.release()
	endpoint := c.paths[req.call]
	if endpoint == "" {
		return answer{}, fmt.Errorf("remoteapi: %s: %w", req.call, extension.ErrUnsupported)
	}
	ctx, cancel := c.bound(parent)
	defer cancel()
	hreq, err := c.newRequest(ctx, endpoint, req)
	if err != nil {
		return answer{}, fmt.Errorf("remoteapi: %s: %w", req.call, private(err))
	}
	resp, err := c.http.Do(hreq)
	if err != nil {
		return answer{}, c.transportError(parent, ctx, req, err)
	}
	defer resp.Body.Close()
	data, err := c.read(resp, req.call)
	if err != nil {
		return answer{}, c.readError(parent, ctx, req, err)
	}
	// While a TLS connection is being closed, a server that sees it may end its
	// answer, which then looks whole.
	if err := ended(parent, ctx, req.call); err != nil {
		return answer{}, err
	}
	return c.judge(resp, data, req)
}

// bound applies Limits.Timeout, or else the default if the caller has set no deadline.
func (c *Client) bound(parent context.Context) (context.Context, context.CancelFunc) {
	timeout := c.limits.Timeout
	if timeout == 0 {
		if _, bounded := parent.Deadline(); bounded {
			return context.WithCancel(parent)
		}
		timeout = defaultTimeout
	}
	return context.WithTimeoutCause(parent, timeout, errTooSlow)
}

func (c *Client) newRequest(ctx context.Context, endpoint string, req request) (*http.Request, error) {
	hreq, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, http.NoBody)
	if err != nil {
		return nil, err
	}
	hreq.Body, hreq.ContentLength = req.body.reader(), req.body.length
	hreq.GetBody = func() (io.ReadCloser, error) { return req.body.reader(), nil }
	c.setHeader(hreq.Header, req)
	if req.call.reads() {
		// net/http repeats it on another connection when a kept-alive one turned out to be
		// closed. A header without values is not sent.
		hreq.Header[HeaderBatchID] = nil
	}
	return hreq, nil
}

func (c *Client) setHeader(h http.Header, req request) {
	h.Set("Content-Type", "application/json")
	h.Set("Accept", "application/json")
	h.Set("User-Agent", userAgent(req.node))
	if !c.quirks.NoNodeKeyHeader && req.node.Key != "" {
		h.Set("Authorization", "NodeKey "+req.node.Key)
	}
	for name, values := range req.header {
		h[name] = values
	}
	for name, values := range c.header {
		h[name] = values
	}
}

func userAgent(node extension.Node) string {
	if node.OsqueryVersion != "" {
		return "osquery/" + node.OsqueryVersion
	}
	return "osquery"
}

// read reads the whole answer or, of a failure, as much as may hold JSON.
func (c *Client) read(resp *http.Response, name call) ([]byte, error) {
	if !success(resp.StatusCode) {
		data, err := io.ReadAll(io.LimitReader(resp.Body, maxFailureBody+1))
		if len(data) > maxFailureBody || err != nil {
			return nil, nil // the status alone says enough
		}
		return data, nil
	}
	limit := c.limits.Answer
	if name == callConfig {
		limit = c.limits.Config
	}
	if resp.ContentLength > limit {
		return nil, tooLarge(name, limit)
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err == nil && int64(len(data)) > limit {
		return nil, tooLarge(name, limit)
	}
	return data, err
}

func tooLarge(name call, limit int64) error {
	return &AnswerError{Call: string(name), Reason: ReasonTooLarge,
		Detail: fmt.Sprintf("more than %d bytes; see WithLimits", limit)}
}

// transportError returns the error of a call without an answer. The URL is left out: a path
// may hold what its owner would not want in a log.
func (c *Client) transportError(parent, ctx context.Context, req request, err error) error {
	if ended := ended(parent, ctx, req.call); ended != nil {
		return ended
	}
	var uerr *url.Error
	if errors.As(err, &uerr) {
		err = uerr.Err
	}
	return fmt.Errorf("remoteapi: %s: %s: %w", req.call, c.server.Host, private(err))
}

func (c *Client) readError(parent, ctx context.Context, req request, err error) error {
	var aerr *AnswerError
	if errors.As(err, &aerr) {
		return err
	}
	if ended := ended(parent, ctx, req.call); ended != nil {
		return ended
	}
	return &AnswerError{Call: string(req.call), Reason: ReasonBroken, Err: private(err)}
}

// ended distinguishes the end of the caller's context from our own timeout.
func ended(parent, ctx context.Context, name call) error {
	if err := parent.Err(); err != nil {
		return fmt.Errorf("remoteapi: %s: %w", name, err)
	}
	if ctx.Err() != nil {
		return &AnswerError{Call: string(name), Reason: ReasonTimeout, Detail: "see Limits.Timeout", Err: errTooSlow}
	}
	return nil
}

func success(status int) bool { return status >= 200 && status < 300 }
