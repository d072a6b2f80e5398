package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/osqvisor/osqvisor/extension"
)

// maxAnswer bounds what is read of an answer, in bytes: servers can be wrong, too.
const maxAnswer = 8 << 20

// Client is a host's own connection to its server, as a Transport. One Client serves
// all instances: the Node of each call names the one that calls. It keeps nothing,
// so its methods may be called from many goroutines at once.
type Client struct {
	base string // such as "https://fleet.example.org"
	http *http.Client
}

// The compiler reports a method that is missing, extension/transporttest one that is
// not as osqvisor needs it.
var _ extension.Transport = (*Client)(nil)

// Config returns what osqueryd is to do: a JSON document for each source.
func (c *Client) Config(ctx context.Context, node extension.Node) (map[string]string, error) {
	var config map[string]string
	if err := c.get(ctx, node, "config", &config); err != nil {
		return nil, err
	}
	return config, nil
}

// PublishLogs sends a batch. Until it returns nil, the same batch comes again, with
// the same ID; so the server gets the ID, and drops what it has already. As JSON the
// lines are base64, since they can be any bytes; a server that would rather have them one
// below the other gets the output of batch.WriteTo or batch.Gzip.
func (c *Client) PublishLogs(ctx context.Context, node extension.Node, batch extension.Batch) error {
	return c.post(ctx, node, "logs", batch)
}

// Queries returns the distributed queries that are to be run now.
func (c *Client) Queries(ctx context.Context, node extension.Node) (extension.QuerySet, error) {
	var set extension.QuerySet
	if err := c.get(ctx, node, "queries", &set); err != nil {
		return extension.QuerySet{}, err
	}
	return set, nil
}

// result is an extension.Result as it is sent: the rows as text, so that they arrive
// exactly as osqueryd wrote them.
type result struct {
	ID      string                `json:"id"`
	Status  int                   `json:"status"`
	Message string                `json:"message,omitempty"`
	Rows    string                `json:"rows"`
	Stats   *extension.QueryStats `json:"stats,omitempty"`
}

// WriteResults sends the answers to distributed queries.
func (c *Client) WriteResults(ctx context.Context, node extension.Node, results []extension.Result) error {
	sent := make([]result, len(results))
	for i, r := range results {
		sent[i] = result{ID: r.ID, Status: r.Status, Message: r.Message, Rows: string(r.Rows), Stats: r.Stats}
	}
	return c.post(ctx, node, "results", sent)
}

func (c *Client) post(ctx context.Context, node extension.Node, what string, content any) error {
	body, err := json.Marshal(content)
	if err != nil {
		return fmt.Errorf("%s: %w: %w", what, extension.ErrPermanent, err)
	}
	req, err := c.request(ctx, node, http.MethodPost, what, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	return c.do(req, nil)
}

func (c *Client) get(ctx context.Context, node extension.Node, what string, answer any) error {
	req, err := c.request(ctx, node, http.MethodGet, what, http.NoBody)
	if err != nil {
		return err
	}
	return c.do(req, answer)
}

// request names the caller, in the path and by the label that the host set on the instance.
func (c *Client) request(ctx context.Context, node extension.Node, method, what string, body io.Reader) (*http.Request, error) {
	address, err := url.JoinPath(c.base, "instances", node.Instance, what)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	req, err := http.NewRequestWithContext(ctx, method, address, body)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	req.Header.Set("X-Tenant", node.Labels["tenant"])
	return req, nil
}

// do ends when the request's context does, as every method of a Transport must.
func (c *Client) do(req *http.Request, answer any) error {
	resp, err := c.http.Do(req)
	if err != nil {
		return err // it names method and address
	}
	defer resp.Body.Close()
	body := io.LimitReader(resp.Body, maxAnswer)
	if resp.StatusCode/100 != 2 {
		text, _ := io.ReadAll(io.LimitReader(body, 200)) // for the error alone
		return fmt.Errorf("%s %s: %w", req.Method, req.URL.Path, extension.StatusError(resp.StatusCode, resp.Header, string(text)))
	}
	if answer == nil {
		_, _ = io.Copy(io.Discard, body) // so that the connection can be used again
		return acknowledged(resp)
	}
	if err := json.NewDecoder(body).Decode(answer); err != nil {
		return fmt.Errorf("%s %s: %w", req.Method, req.URL.Path, err)
	}
	return nil
}

// acknowledged takes one status alone for the server's acknowledgement that it has the data, which
// is deleted then. A sign-in page of a gateway, to which a POST may have been redirected,
// comes as 200.
func acknowledged(resp *http.Response) error {
	if resp.StatusCode == http.StatusNoContent {
		return nil
	}
	return fmt.Errorf("%s %s: %s is no acknowledgement; something on the way may have answered in the server's place",
		resp.Request.Method, resp.Request.URL.Path, resp.Status)
}
