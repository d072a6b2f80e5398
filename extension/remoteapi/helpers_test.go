package remoteapi_test

import (
	"context"
	"testing"
	"time"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/extension/remoteapi"
	"github.com/osqvisor/osqvisor/internal/remoteapitest"
)

// serve returns a server and a client of it; further options come after the usual ones.
func serve(t *testing.T, opts ...remoteapi.Option) (*remoteapitest.Server, *remoteapi.Client) {
	t.Helper()
	server := start(t)
	opts = append([]remoteapi.Option{
		remoteapi.WithTLS(server.ClientTLS()), secretIs(server.EnrollSecret()),
	}, opts...)
	return server, dial(t, server.URL(), opts...)
}

func start(t *testing.T, opts ...remoteapitest.Option) *remoteapitest.Server {
	t.Helper()
	server, err := remoteapitest.New(opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	return server
}

func secretIs(value string) remoteapi.Option {
	return remoteapi.WithEnrollSecret(remoteapi.EnrollSecret{Value: value})
}

func dial(t *testing.T, url string, opts ...remoteapi.Option) *remoteapi.Client {
	t.Helper()
	client, err := remoteapi.New(url, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.CloseIdleConnections)
	return client
}

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func ofHost(name string) extension.EnrollRequest {
	return extension.EnrollRequest{Node: extension.Node{Instance: name, HostIdentifier: name}}
}

func enrolled(t *testing.T, client *remoteapi.Client, instance string) extension.Node {
	t.Helper()
	node := extension.Node{Instance: instance, HostIdentifier: instance, OsqueryVersion: "5.23.0"}
	key, err := client.Enroll(within(t, 10*time.Second), extension.EnrollRequest{Node: node, PlatformType: 9,
		HostDetails: map[string]map[string]string{"os_version": {"name": "Ubuntu"}}})
	if err != nil {
		t.Fatal(err)
	}
	node.Key = key
	return node
}

func batch(lines ...string) extension.Batch {
	b := extension.Batch{ID: "a/results/1-2", Queue: extension.QueueResults, First: 1, Last: uint64(len(lines)), Try: 1}
	for _, line := range lines {
		b.Lines = append(b.Lines, []byte(line))
	}
	return b
}

// apiCall is each of the API's calls, to be tried on bad answers.
type apiCall struct {
	name remoteapitest.Call
	do   func(ctx context.Context, c *remoteapi.Client, n extension.Node) error
}

func apiCalls() []apiCall {
	return []apiCall{
		{remoteapitest.CallEnroll, func(ctx context.Context, c *remoteapi.Client, n extension.Node) error {
			n.HostIdentifier = "a"
			_, err := c.Enroll(ctx, extension.EnrollRequest{Node: n})
			return err
		}},
		{remoteapitest.CallConfig, func(ctx context.Context, c *remoteapi.Client, n extension.Node) error {
			_, err := c.Config(ctx, n)
			return err
		}},
		{remoteapitest.CallLog, func(ctx context.Context, c *remoteapi.Client, n extension.Node) error {
			return c.PublishLogs(ctx, n, batch(`{"a":"1"}`))
		}},
		{remoteapitest.CallRead, func(ctx context.Context, c *remoteapi.Client, n extension.Node) error {
			_, err := c.Queries(ctx, n)
			return err
		}},
		{remoteapitest.CallWrite, func(ctx context.Context, c *remoteapi.Client, n extension.Node) error {
			return c.WriteResults(ctx, n, []extension.Result{{ID: "q"}})
		}},
	}
}
