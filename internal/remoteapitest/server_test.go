package remoteapitest_test

import (
	"bytes"
	"crypto/tls"
	"io"
	"net/http"
	"runtime"
	"testing"
	"time"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/internal/remoteapitest"
)

func start(t *testing.T) (*remoteapitest.Server, func(path, body string) (int, string)) {
	t.Helper()
	server, err := remoteapitest.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: server.RootCAs()}}
	client := &http.Client{Transport: transport, Timeout: 10 * time.Second}
	t.Cleanup(client.CloseIdleConnections)
	return server, func(path, body string) (int, string) {
		t.Helper()
		resp, err := client.Post(server.URL()+path, "application/json", bytes.NewReader([]byte(body)))
		if err != nil {
			return 0, err.Error()
		}
		defer resp.Body.Close()
		data, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(bytes.TrimSpace(data))
	}
}

type exchange struct {
	path, body string
	status     int
	answer     string
}

func exchanges() []exchange {
	return []exchange{
		{"/api/osquery/enroll", `{"enroll_secret":"wrong","host_identifier":"h"}`, 401, `{"error":"enroll secret refused","node_invalid":true}`},
		{"/api/osquery/enroll", `{"enroll_secret":"enroll-secret"}`, 400, `{"error":"enroll: not an object with a host_identifier"}`},
		{"/api/osquery/config", `{"node_key":"nobody"}`, 401, `{"error":"invalid node key","node_invalid":true}`},
		{"/api/osquery/config", `nothing`, 401, `{"error":"invalid node key","node_invalid":true}`},
		{"/api/osquery/enroll", `{"enroll_secret":"enroll-secret","host_identifier":"h"}`, 200, `{"node_invalid":false,"node_key":"node-key-0001-of-68"}`},
		{"/api/osquery/enroll", `{"enroll_secret":"enroll-secret","host_identifier":"g"}`, 200, `{"node_invalid":false,"node_key":"node-key-0002-of-67"}`},
		{"/api/osquery/config", `{"node_key":"node-key-0001-of-68"}`, 200, `{"own":1}`},
		{"/api/osquery/config", `{"node_key":"node-key-0002-of-67"}`, 200, `{"all":1}`},
		{"/api/osquery/distributed/read", `{"node_key":"node-key-0001-of-68"}`, 200, `{"accelerate":60,"node_invalid":false,"queries":{"q1":"select 1","q2":"select 2"}}`},
		{"/api/osquery/distributed/write", `{"node_key":"node-key-0001-of-68","queries":{"q1":[]},"statuses":{"q1":"2"},"messages":{"q1":"m"}}`, 200, `{}`},
		{"/api/osquery/distributed/read", `{"node_key":"node-key-0001-of-68"}`, 200, `{"accelerate":60,"node_invalid":false,"queries":{"q2":"select 2"}}`},
		{"/api/osquery/log", `{"node_key":"node-key-0001-of-68","log_type":"result","data":[{"a" :1}]}`, 200, `{}`},
		{"/api/osquery/log", `{"node_key":"node-key-0001-of-68","log_type":"other","data":[]}`, 400, `{"error":"log: unknown log_type"}`},
		{"/api/osquery/nothing", `{}`, 404, `{"error":"no such endpoint"}`},
	}
}

// TestProtocol speaks to the server without the client, so that one mistake in both
// does not go unseen.
func TestProtocol(t *testing.T) {
	server, post := start(t)
	server.SetConfig("", `{"all":1}`)
	server.SetConfig("h", `{"own":1}`)
	server.SetQueries("h", extension.QuerySet{Queries: map[string]string{"q1": "select 1", "q2": "select 2"}, AccelerateSeconds: 60})
	for _, c := range exchanges() {
		if status, answer := post(c.path, c.body); status != c.status || answer != c.answer {
			t.Errorf("%s %s: %d %s, want %d %s", c.path, c.body, status, answer, c.status, c.answer)
		}
	}
	if got := server.Batches("h"); len(got) != 1 || string(got[0].Lines[0]) != `{"a" :1}` {
		t.Errorf("batches: %+v", got)
	}
	if got := server.Results("h"); len(got) != 1 || got[0].Status != 2 || got[0].Message != "m" {
		t.Errorf("results: %+v", got)
	}
	server.InvalidateKeys("h")
	if status, _ := post("/api/osquery/config", `{"node_key":"node-key-0001-of-68"}`); status != 401 {
		t.Errorf("invalidated key: %d", status)
	}
	if status, _ := post("/api/osquery/config", `{"node_key":"node-key-0002-of-67"}`); status != 200 {
		t.Errorf("another host's key: %d", status)
	}
	if server.Forget(); len(server.Batches("h"))+len(server.Results("h"))+len(server.Requests()) != 0 {
		t.Error("Forget left something")
	}
}

func TestFaultScript(t *testing.T) {
	server, post := start(t)
	server.FailNext(remoteapitest.CallConfig, 2, remoteapitest.Answer(500, "one"))
	server.FailNext(remoteapitest.CallAny, 1, remoteapitest.Answer(501, "two"))
	server.SetFault(func(call remoteapitest.Call, _ *http.Request) remoteapitest.Fault {
		if call == remoteapitest.CallLog {
			return remoteapitest.Busy(3)
		}
		return nil
	})
	for i, want := range []int{500, 500, 501, 401} {
		if got, _ := post("/api/osquery/config", `{}`); got != want {
			t.Errorf("config %d: %d, want %d", i+1, got, want)
		}
	}
	if got, _ := post("/api/osquery/log", `{}`); got != 503 {
		t.Errorf("log: %d", got)
	}
	server.SetFault(nil)
	if got, _ := post("/api/osquery/log", `{}`); got != 401 {
		t.Errorf("log: %d", got)
	}
}

// TestCloseLeavesNothing counts goroutines; Close has to have joined them.
func TestCloseLeavesNothing(t *testing.T) {
	before := runtime.NumGoroutine()
	for range 5 {
		server, err := remoteapitest.New()
		if err != nil {
			t.Fatal(err)
		}
		transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: server.RootCAs()}}
		resp, err := (&http.Client{Transport: transport}).Post(server.URL(), "", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		transport.CloseIdleConnections()
		server.Close()
		server.Close()
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for range 300 { // the client's own take a moment
		if runtime.NumGoroutine() <= before {
			return
		}
		<-tick.C
	}
	t.Errorf("%d goroutines before, %d after", before, runtime.NumGoroutine())
}
