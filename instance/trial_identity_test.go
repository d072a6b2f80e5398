package instance_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/extension/remoteapi"
	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/internal/remoteapitest"
	"github.com/osqvisor/osqvisor/internal/testhelp"
)

// fleet gives a server of osquery's remote API and a transport to it.
func fleet(t *testing.T) (*remoteapitest.Server, *remoteapi.Client) {
	t.Helper()
	server, err := remoteapitest.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	client, err := remoteapi.New(server.URL(), remoteapi.WithTLS(server.ClientTLS()),
		remoteapi.WithEnrollSecret(remoteapi.EnrollSecret{Value: server.EnrollSecret()}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.CloseIdleConnections)
	return server, client
}

// everyKind makes osqueryd log results, snapshots and status lines.
const everyKind = `{"decorators":{"load":["select version as osquery from osquery_info"]},"schedule":{
	"once": {"query": "select 'x' as v", "interval": 1},
	"always": {"query": "select 'x' as v", "interval": 1, "snapshot": true}
}}`

// awaitKinds waits until a node's server has lines of all three queues, and gives them all.
func awaitKinds(t *testing.T, server *remoteapitest.Server, node string) map[extension.Queue][]json.RawMessage {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	ctx := patient(t)
	for {
		lines := map[extension.Queue][]json.RawMessage{}
		for _, b := range server.Batches(node) {
			lines[b.Queue] = append(lines[b.Queue], b.Lines...)
		}
		if len(lines) == 3 && len(lines[extension.QueueStatus]) > 0 {
			return lines
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("of node %q there are lines in %d queues, of 3", node, len(lines))
		}
	}
}

// TestTrial09WhatEnrolsIsWhatLogs: a server can attribute every line, of any kind, to the node that
// enrolled, and tells the instances of one machine apart.
func TestTrial09WhatEnrolsIsWhatLogs(t *testing.T) { whatEnrolsIsWhatLogs(t) }

func TestPromise15WhatEnrolsIsWhatLogs(t *testing.T) { whatEnrolsIsWhatLogs(t) }

func whatEnrolsIsWhatLogs(t *testing.T) {
	t.Helper()
	each(t, func(t *testing.T, binary string) {
		testhelp.CheckLeaks(t)
		server, client := fleet(t)
		server.SetConfig("", everyKind)
		base := root(t)
		seen := map[string]bool{}
		for _, name := range []string{"", "", "Named-By the.host"} {
			opts := []instance.Option{
				instance.WithTransport(client), instance.WithRoot(fmt.Sprintf("%s/%d", base, len(seen))),
				instance.WithLogs(extension.Logs{BatchLines: 100, BatchAge: 50 * time.Millisecond}),
			}
			if name != "" {
				opts = append(opts, instance.WithHostIdentifier(name))
			}
			r := start(t, binary, opts...)
			node := enrolledName(t, server, seen)
			if name != "" && node != name || seen[node] {
				t.Errorf("enrolled as %q, want %q", node, name)
			}
			seen[node] = true
			for queue, lines := range awaitKinds(t, server, node) {
				for _, line := range lines {
					var got struct {
						Host string `json:"hostIdentifier"`
					}
					if err := json.Unmarshal(line, &got); err != nil || got.Host != node {
						t.Errorf("%s of %q: %s, %v", queue, node, line, err)
					}
				}
			}
			r.end(t)
		}
	})
}

// enrolledName gives the name of the newest enrolment that is not seen yet.
func enrolledName(t *testing.T, server *remoteapitest.Server, seen map[string]bool) string {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	ctx := patient(t)
	for {
		for _, r := range server.Requests() {
			if r.Call == remoteapitest.CallEnroll && !seen[r.Host] {
				return r.Host
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("nobody enrolled")
		}
	}
}
