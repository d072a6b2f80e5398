package remoteapi_test

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/extension/remoteapi"
	"github.com/osqvisor/osqvisor/internal/plugin"
	"github.com/osqvisor/osqvisor/internal/remoteapitest"
	"github.com/osqvisor/osqvisor/stats"
)

// host is an extension that speaks to a server through a client, with what it announced.
type host struct {
	*plugin.Extension
	mu     sync.Mutex
	failed []stats.TransportFailed
}

func newHost(t *testing.T, client *remoteapi.Client, signer crypto.Signer) *host {
	t.Helper()
	h := &host{}
	ext, err := plugin.New(plugin.Settings{
		Node: func() extension.Node { return extension.Node{Instance: "a", HostIdentifier: "a"} },
		Dir:  t.TempDir(), Transport: client, Drain: 5 * time.Second,
		Logs: extension.Logs{
			BatchAge: time.Hour, Signer: signer,
			Delivery: extension.Delivery{FirstWait: time.Millisecond, LongestWait: time.Millisecond},
		},
		Emit: func(e stats.Event) {
			if e, ok := e.(stats.TransportFailed); ok {
				h.mu.Lock()
				defer h.mu.Unlock()
				h.failed = append(h.failed, e)
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	h.Extension = ext
	t.Cleanup(func() {
		if err := ext.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

func (h *host) log(lines ...string) {
	for _, line := range lines {
		h.Call(context.Background(), "logger", "osqvisor", map[string]string{"string": line})
	}
}

// announced returns the failures of one call since it was last asked.
func (h *host) announced(call string) (errs []error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range h.failed {
		if e.Call == call {
			errs = append(errs, e.Err)
		}
	}
	h.failed = nil
	return errs
}

// TestBadAnswersAreRetried: whatever a server answers, what was to be delivered or
// fetched is there after the next good answer, once.
func TestBadAnswersAreRetried(t *testing.T) {
	for _, bad := range badAnswers() {
		t.Run(bad.name, func(t *testing.T) {
			t.Parallel()
			timeout := 10 * time.Second
			if bad.reason == remoteapi.ReasonTimeout {
				timeout = 600 * time.Millisecond // good answers must be within it, on a busy machine too
			}
			server, client := serve(t, remoteapi.WithLimits(remoteapi.Limits{Config: 1 << 20, Answer: 64 << 10, Timeout: timeout}))
			server.SetConfig("a", `{"schedule":{"q":{"query":"select 1","interval":60}}}`)
			h := newHost(t, client, nil)
			if _, _, err := h.FetchConfig(within(t, 20*time.Second)); err != nil { // enrols
				t.Fatal(err)
			}
			h.badLogAnswer(t, server, bad)
			h.badConfigAnswer(t, server, bad)
			h.badReadAnswer(t, server, bad)
			h.badWriteAnswer(t, server, bad)
			h.badEnrollAnswer(t, server, bad)
		})
	}
}

// badLogAnswer: the batch stays, under its id, until it is taken.
func (h *host) badLogAnswer(t *testing.T, server *remoteapitest.Server, bad badAnswer) {
	t.Helper()
	h.log(`{"n":1}`, `{"n":2}`)
	server.FailNext(remoteapitest.CallLog, 2, bad.fault)
	for range 2 {
		err := h.Flush(within(t, 20*time.Second))
		bad.check(t, remoteapitest.CallLog, err)
		if got := h.announced("logs"); len(got) != 1 || !errors.Is(err, got[0]) {
			t.Errorf("announced %v, want %v", got, err)
		}
	}
	if err := h.Flush(within(t, 20*time.Second)); err != nil {
		t.Fatal(err)
	}
	if got, ids := arrived(server.Batches("a")); !slices.Equal(got, []string{`{"n":1}`, `{"n":2}`}) || len(ids) != 1 {
		t.Errorf("%q arrived, in batches %v", got, ids)
	}
}

// badConfigAnswer: osqueryd has the last good config, and then the new one.
func (h *host) badConfigAnswer(t *testing.T, server *remoteapitest.Server, bad badAnswer) {
	t.Helper()
	server.FailNext(remoteapitest.CallConfig, 2, bad.fault)
	_, _, err := h.FetchConfig(within(t, 20*time.Second))
	bad.check(t, remoteapitest.CallConfig, err)
	got := h.Call(within(t, 20*time.Second), "config", "osqvisor", map[string]string{"action": "genConfig"})
	if got.Status.Code != 0 || !strings.Contains(got.Response[0]["tls_plugin"], "select 1") {
		t.Errorf("osqueryd was told %v, %v", got.Status, got.Response)
	}
	server.SetConfig("a", `{"schedule":{"q":{"query":"select 2","interval":60}}}`)
	config, _, err := h.FetchConfig(within(t, 20*time.Second))
	if err != nil || !strings.Contains(config["tls_plugin"], "select 2") {
		t.Errorf("after the bad answers: %v, %v", config, err)
	}
}

// badReadAnswer: osqueryd hears of it, and gets its queries the next time.
func (h *host) badReadAnswer(t *testing.T, server *remoteapitest.Server, bad badAnswer) {
	t.Helper()
	server.SetQueries("a", extension.QuerySet{Queries: map[string]string{"q1": "select 1"}})
	server.FailNext(remoteapitest.CallRead, 1, bad.fault)
	read := map[string]string{"action": "getQueries"}
	if got := h.Call(within(t, 20*time.Second), "distributed", "osqvisor", read); got.Status.Code != 1 {
		t.Errorf("osqueryd was told %v, %v", got.Status, got.Response)
	}
	got := h.Call(within(t, 20*time.Second), "distributed", "osqvisor", read)
	if got.Status.Code != 0 || !strings.Contains(got.Response[0]["results"], `"q1":"select 1"`) {
		t.Errorf("osqueryd was told %v, %v", got.Status, got.Response)
	}
}

// badWriteAnswer: osqueryd's results stay until they are taken.
func (h *host) badWriteAnswer(t *testing.T, server *remoteapitest.Server, bad badAnswer) {
	t.Helper()
	server.FailNext(remoteapitest.CallWrite, 1, bad.fault)
	got := h.Call(within(t, 20*time.Second), "distributed", "osqvisor", map[string]string{
		"action": "writeResults", "results": `{"queries":{"q1":[{"1":"1"}]},"statuses":{"q1":0}}`,
	})
	if got.Status.Code != 0 {
		t.Errorf("osqueryd was told %v", got.Status)
	}
	bad.check(t, remoteapitest.CallWrite, h.Flush(within(t, 20*time.Second)))
	if err := h.Flush(within(t, 20*time.Second)); err != nil {
		t.Error(err)
	}
	if got := server.Results("a"); len(got) != 1 || string(got[0].Rows) != `[{"1":"1"}]` {
		t.Errorf("the server has %v", got)
	}
}

// badEnrollAnswer: the instance enrols as soon as it can.
func (h *host) badEnrollAnswer(t *testing.T, server *remoteapitest.Server, bad badAnswer) {
	t.Helper()
	server.InvalidateKeys("a")
	server.FailNext(remoteapitest.CallEnroll, 1, bad.fault)
	ctx := within(t, 20*time.Second)
	if _, _, err := h.FetchConfig(ctx); err == nil {
		t.Error("a config without a node key")
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		_, _, err := h.FetchConfig(ctx)
		if err == nil {
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("not enrolled again: %v", err)
		}
	}
	if got := server.Enrolments("a"); got != 2 {
		t.Errorf("%d enrolments, want 2", got)
	}
}

// TestSignatureVerifiesAtTheServer: what arrives by the remote API can be checked
// with what this project exports, and with nothing else.
func TestSignatureVerifiesAtTheServer(t *testing.T) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	server, client := serve(t, remoteapi.WithGzip())
	h := newHost(t, client, private)
	h.log(`{ "n" : 1.0, "s":"<&> ž" }`, `{"n":2}`)
	if err := h.Flush(within(t, 20*time.Second)); err != nil {
		t.Fatal(err)
	}
	got := server.Batches("a")
	if len(got) != 1 {
		t.Fatalf("%d batches", len(got))
	}
	b := extension.Batch{ID: got[0].ID, Queue: got[0].Queue, First: got[0].First, Last: got[0].Last, Signature: got[0].Signature}
	for _, raw := range got[0].Lines {
		b.Lines = append(b.Lines, raw)
	}
	if err := extension.Verify(public, b); err != nil {
		t.Error(err)
	}
	b.Lines[0] = []byte(`{"n":1.0,"s":"<&> ž"}`)
	if err := extension.Verify(public, b); !errors.Is(err, extension.ErrSignature) {
		t.Errorf("a line that was encoded anew: %v", err)
	}
}
