package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/instance/osquerydtest"
)

// bound is reached only by a defect.
const bound = time.Minute

func TestMain(m *testing.M) {
	osquerydtest.Main()
	os.Exit(m.Run())
}

// server is the other side of transport.
type server struct {
	mu      sync.Mutex
	batches map[string]int // by instance, of the schedule's results
	results map[string]extension.Result
	asked   bool
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id, what, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	switch what {
	case "config":
		_, _ = io.WriteString(w, `{"main": "{\"schedule\": {\"one\": {\"query\": \"select 1\", \"interval\": 1, \"snapshot\": true}}}"}`)
	case "queries":
		set := extension.QuerySet{}
		if id == "acme" && !s.asked {
			s.asked, set.Queries = true, map[string]string{"where": "select value from tenant_labels"}
		}
		_ = json.NewEncoder(w).Encode(set)
	case "logs":
		var batch extension.Batch
		if json.NewDecoder(r.Body).Decode(&batch) == nil && batch.Queue == extension.QueueSnapshots {
			s.batches[id]++
		}
		w.WriteHeader(http.StatusNoContent)
	case "results":
		var results []extension.Result
		_ = json.NewDecoder(r.Body).Decode(&results)
		for _, result := range results {
			s.results[id] = result
		}
		w.WriteHeader(http.StatusNoContent)
	}
}

// world is the agent with all that is around it.
type world struct {
	t       *testing.T
	server  *server
	file    string
	address string
}

func newWorld(t *testing.T, osqueryd string) *world {
	t.Helper()
	root, err := os.MkdirTemp("", "ma") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(root) })
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{
		t: t, server: &server{batches: map[string]int{}, results: map[string]extension.Result{}},
		file: filepath.Join(t.TempDir(), "tenants.json"), address: "http://" + listener.Addr().String(),
	}
	backend := httptest.NewServer(w.server)
	t.Cleanup(backend.Close)
	w.setTenants(`{"acme": {"site": "berlin"}, "globex": {}}`)
	ctx, stop := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	s := settings{tenants: w.file, server: backend.URL, root: filepath.Join(root, "root"), osqueryd: osqueryd}
	go func() { ran <- run(ctx, s, listener) }()
	t.Cleanup(func() {
		stop()
		if err := <-ran; err != nil {
			t.Errorf("the agent ended with %v", err)
		}
	})
	return w
}

// setTenants replaces the file as a whole.
func (w *world) setTenants(text string) {
	w.t.Helper()
	if err := os.WriteFile(w.file+".new", []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
	if err := os.Rename(w.file+".new", w.file); err != nil {
		w.t.Fatal(err)
	}
}

// call returns status and body as one text.
func (w *world) call(method, path string, form url.Values) string {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), method, w.address+path, strings.NewReader(form.Encode()))
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return fmt.Sprintf("%d %s", resp.StatusCode, body)
}

func (w *world) query(id, sql string) string {
	w.t.Helper()
	return w.call(http.MethodPost, "/query", url.Values{"instance": {id}, "sql": {sql}})
}

// until waits until is returns true; what says for the failure how things are.
func (w *world) until(is func() bool, what func() string) {
	w.t.Helper()
	tick, over := time.NewTicker(50*time.Millisecond), time.NewTimer(bound)
	defer tick.Stop()
	defer over.Stop()
	for !is() {
		select {
		case <-tick.C:
		case <-over.C:
			w.t.Fatal(what())
		}
	}
}

// answers waits until a query is answered so.
func (w *world) answers(id, sql, want string) {
	w.t.Helper()
	var got string
	w.until(func() bool { got = w.query(id, sql); return got == want },
		func() string { return fmt.Sprintf("%s answers %q, want %q", id, got, want) })
}

func TestAgent(t *testing.T) {
	t.Run("fake", func(t *testing.T) { testAgent(t, osquerydtest.FakeName) })
	if real := os.Getenv("OSQUERYD"); real != "" {
		t.Run("real", func(t *testing.T) { testAgent(t, real) })
	}
}

func testAgent(t *testing.T, osqueryd string) {
	t.Helper()
	const ofLabels = "select name, value from tenant_labels"
	w := newWorld(t, osqueryd)
	w.answers("acme", ofLabels, `200 {"name":"site","value":"berlin"}`+"\n")
	w.answers("globex", ofLabels, "200 ")
	w.until(func() bool { return strings.HasPrefix(w.call(http.MethodGet, "/healthz", nil), `200 {"healthy":true`) },
		func() string { return w.call(http.MethodGet, "/healthz", nil) })
	w.until(func() bool {
		w.server.mu.Lock()
		defer w.server.mu.Unlock()
		return w.server.results["acme"].ID == "where" && strings.Contains(string(w.server.results["acme"].Rows), "berlin")
	}, func() string { return fmt.Sprintf("the distributed query is answered by %+v", w.server.results) })
	w.until(func() bool {
		w.server.mu.Lock()
		defer w.server.mu.Unlock()
		return w.server.batches["acme"] > 0 && w.server.batches["globex"] > 0
	}, func() string { return "no log lines arrive" })

	metrics := w.call(http.MethodGet, "/metrics", nil)
	for _, want := range []string{
		`osqueryd_state{instance="acme",state="ready"} 1`, `osqueryd_restarts_total{instance="globex"} 0`,
		`osqueryd_queue_bytes{instance="acme",queue="snapshots"} `,
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("%q is missing in %s", want, metrics)
		}
	}
	if got := w.query("acme", "select nonsense"); !strings.HasPrefix(got, `502 {"error":"`) || !strings.Contains(got, "nonsense") {
		t.Errorf("a wrong query: %q", got)
	}

	pid := w.query("acme", "select pid from osquery_info")
	w.setTenants(`{"acme": {"site": "paris"}, "initech": {"site": "rome"}}`)
	w.answers("initech", ofLabels, `200 {"name":"site","value":"rome"}`+"\n")
	w.answers("acme", ofLabels, `200 {"name":"site","value":"paris"}`+"\n")
	if now := w.query("acme", "select pid from osquery_info"); now != pid || !strings.HasPrefix(pid, `200 {"pid":`) {
		t.Errorf("with new labels acme has the osqueryd %q, want still %q", now, pid)
	}
	w.until(func() bool { return strings.Contains(w.query("globex", ofLabels), "no such instance") },
		func() string { return "globex is still there: " + w.query("globex", ofLabels) })

	w.setTenants(`{"acme": `) // changes nothing
	w.setTenants(`{"initech": {"site": "rome"}}`)
	w.until(func() bool { return strings.Contains(w.query("acme", ofLabels), "no such instance") },
		func() string { return "acme is still there: " + w.query("acme", ofLabels) })
	if got := w.query("initech", ofLabels); got != `200 {"name":"site","value":"rome"}`+"\n" {
		t.Errorf("initech, which was not changed, answers %q", got)
	}
}
