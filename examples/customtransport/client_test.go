package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/extension/transporttest"
)

// A host runs this suite on its own transport.
func TestClientConforms(t *testing.T) {
	transporttest.Run(t, func(t *testing.T) transporttest.Harness {
		t.Helper()
		return newHarness(t)
	})
}

// harness is a server that the suite can look into and make fail.
type harness struct {
	client *Client

	mu       sync.Mutex
	batches  map[string][]extension.Batch
	results  map[string][]extension.Result
	configs  map[string]map[string]string
	queries  map[string]extension.QuerySet
	failure  transporttest.Failure
	failures int
}

func newHarness(t *testing.T) *harness {
	t.Helper()
	h := &harness{
		batches: map[string][]extension.Batch{}, results: map[string][]extension.Result{},
		configs: map[string]map[string]string{}, queries: map[string]extension.QuerySet{},
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/instances/{id}/{what}", h.serve)
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	t.Cleanup(server.CloseClientConnections) // those that hang
	h.client = &Client{base: server.URL, http: &http.Client{Transport: &http.Transport{}}}
	t.Cleanup(h.client.http.CloseIdleConnections)
	return h
}

func (h *harness) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the client went away
	}
	h.mu.Lock()
	failure := transporttest.Failure{}
	if h.failures > 0 {
		h.failures--
		failure = h.failure
	}
	h.mu.Unlock()
	switch failure.Kind {
	case transporttest.Temporary:
		http.Error(w, "told to fail", http.StatusInternalServerError)
		return
	case transporttest.RetryAfter:
		w.Header().Set("Retry-After", strconv.Itoa(int(failure.After.Seconds())))
		http.Error(w, "told to fail", http.StatusTooManyRequests)
		return
	case transporttest.Permanent:
		http.Error(w, "told to fail", http.StatusUnprocessableEntity)
		return
	case transporttest.Hang:
		<-r.Context().Done()
		return
	case transporttest.LostAnswer:
		h.answer(httptest.NewRecorder(), r, body)
		panic(http.ErrAbortHandler) // closes the connection
	}
	h.answer(w, r, body)
}

func (h *harness) answer(w http.ResponseWriter, r *http.Request, body []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	id := r.PathValue("id")
	switch r.PathValue("what") {
	case "config":
		reply(w, h.configs[id])
	case "queries":
		reply(w, h.queries[id])
		delete(h.queries, id)
	case "logs":
		var batch extension.Batch
		if err := json.Unmarshal(body, &batch); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		h.batches[id] = append(h.batches[id], batch)
		w.WriteHeader(http.StatusNoContent)
	case "results":
		var results []result
		if err := json.Unmarshal(body, &results); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		for _, r := range results {
			h.results[id] = append(h.results[id], extension.Result{
				ID: r.ID, Status: r.Status, Message: r.Message, Rows: json.RawMessage(r.Rows), Stats: r.Stats,
			})
		}
		w.WriteHeader(http.StatusNoContent)
	}
}

func (h *harness) Transport() extension.Transport { return h.client }

func (h *harness) Received(instance string) []extension.Batch {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]extension.Batch(nil), h.batches[instance]...)
}

func (h *harness) Results(instance string) []extension.Result {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]extension.Result(nil), h.results[instance]...)
}

func (h *harness) SetConfig(instance string, config map[string]string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.configs[instance] = config
}

func (h *harness) SetQueries(instance string, set extension.QuerySet) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.queries[instance] = set
}

func (h *harness) FailNext(failure transporttest.Failure, n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.failure, h.failures = failure, n
}

func (h *harness) Limits() transporttest.Limits {
	return transporttest.Limits{Cannot: map[transporttest.Feature]string{
		transporttest.NodeInvalids: "the example does not enrol",
	}}
}

// TestGatewayIsNoServer: what a gateway answers acknowledges nothing, wherever it sends
// the client first.
func TestGatewayIsNoServer(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("/sign-in", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>Please sign in") })
	mux.Handle("/", http.RedirectHandler("/sign-in", http.StatusFound))
	server := httptest.NewServer(mux)
	defer server.Close()
	client := &Client{base: server.URL, http: server.Client()}
	node := extension.Node{Instance: "vendor"}
	if err := client.PublishLogs(t.Context(), node, extension.Batch{ID: "b", Lines: [][]byte{[]byte("{}")}}); err == nil {
		t.Error("logs: nil")
	}
	if err := client.WriteResults(t.Context(), node, []extension.Result{{ID: "q"}}); err == nil {
		t.Error("results: nil")
	}
	if got, err := client.Config(t.Context(), node); err == nil {
		t.Errorf("config: %v", got)
	}
}
