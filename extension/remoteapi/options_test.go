package remoteapi_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/extension/remoteapi"
	"github.com/osqvisor/osqvisor/internal/remoteapitest"
)

func TestMisuseIsRefusedByName(t *testing.T) {
	for name, opt := range map[string]remoteapi.Option{
		"WithEndpoints":                 remoteapi.WithEndpoints(remoteapi.Endpoints{}),
		"endpoint log":                  remoteapi.WithEndpoints(remoteapi.Endpoints{Log: "//evil.example/log"}),
		"endpoint config":               remoteapi.WithEndpoints(remoteapi.Endpoints{Config: "api/config"}),
		"endpoint enroll is missing":    remoteapi.WithEndpoints(remoteapi.Endpoints{Config: "/config", Log: "/log"}),
		"ForOsctrl":                     remoteapi.ForOsctrl("a/../b"),
		"WithHeader":                    remoteapi.WithHeader("Content-Length", "5"),
		"\"Idempotency-Key\" cannot":    remoteapi.WithHeader("idempotency-key", "x"),
		"\"Osqvisor-Batch\" cannot":     remoteapi.WithHeader(remoteapi.HeaderBatch, "x"),
		"WithHeader: \"X-A\"":           remoteapi.WithHeader("X-A", "b\r\nX-C: d"),
		"\"User-Agent\" is not a valid": remoteapi.WithHeader("User-Agent", "a\x00"),
		"WithEnrollSecret: 0 of":        remoteapi.WithEnrollSecret(remoteapi.EnrollSecret{}),
		"WithEnrollSecret: 2 of":        remoteapi.WithEnrollSecret(remoteapi.EnrollSecret{Value: "a", File: "/b"}),
		"WithLimits: Timeout":           remoteapi.WithLimits(remoteapi.Limits{Timeout: 2 * time.Hour}),
		"WithLimits: RetryAfter":        remoteapi.WithLimits(remoteapi.Limits{RetryAfter: -1}),
		"WithLimits: Answer":            remoteapi.WithLimits(remoteapi.Limits{Answer: -1}),
		"WithLimits: Config":            remoteapi.WithLimits(remoteapi.Limits{Config: 1 << 40}),
		"WithQuirks: PermanentSt":       remoteapi.WithQuirks(remoteapi.Quirks{PermanentStatuses: []int{500}}),
		"WithTLS: nil":                  remoteapi.WithTLS(nil),
		"WithTLS: versions":             remoteapi.WithTLS(&tls.Config{MinVersion: tls.VersionTLS11}),
		"WithTLS: versions before":      remoteapi.WithTLS(&tls.Config{MaxVersion: tls.VersionTLS11}),
		"WithTLS: Insecure":             remoteapi.WithTLS(&tls.Config{InsecureSkipVerify: true}),
		"WithHTTPClient":                remoteapi.WithHTTPClient(nil),
		"option 2 is nil":               nil,
	} {
		// The other mistake must be reported as well.
		_, err := remoteapi.New("https://", remoteapi.WithGzip(), opt)
		if err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "has no host") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestTLSConfigReportsAllMistakes names each wrong field.
func TestTLSConfigReportsAllMistakes(t *testing.T) {
	dir := t.TempDir()
	missing, empty := filepath.Join(dir, "missing"), filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, roots := range []string{missing, empty} {
		_, err := remoteapi.TLSConfig{RootCAFile: roots, CertFile: missing, KeyFile: missing, Pins: []string{"abc"}}.Build()
		for _, field := range []string{"RootCAFile", "CertFile, KeyFile", "Pins"} {
			if err == nil || !strings.Contains(err.Error(), field) {
				t.Errorf("%s: %v", field, err)
			}
		}
	}
}

func TestServersAndConflicts(t *testing.T) {
	client := &http.Client{}
	for _, c := range []struct {
		server string
		want   string // in the error; "" for none
		opts   []remoteapi.Option
	}{
		{"fleet.example", "", nil},
		{"fleet.example:8080", "", nil},
		{"https://fleet.example/prefix/", "", nil},
		{"", "no host", nil},
		{"https://:8080", "no host", nil},
		{"ftp://fleet.example", "not https", nil},
		{"http://fleet.example", "InsecureHTTP", nil},
		{"http://fleet.example", "", []remoteapi.Option{remoteapi.WithQuirks(remoteapi.Quirks{InsecureHTTP: true})}},
		{"http://fleet.example", "WithTLS", []remoteapi.Option{remoteapi.WithQuirks(remoteapi.Quirks{InsecureHTTP: true}), remoteapi.WithTLS(&tls.Config{})}},
		{"https://user:geheim@fleet.example", "password", nil},
		{"https://fleet.example/?a=b", "query", nil},
		{"https://fleet.example", "WithProxy", []remoteapi.Option{remoteapi.WithHTTPClient(client), remoteapi.WithProxy(nil)}},
		{"https://fleet.example", "WithTLS", []remoteapi.Option{remoteapi.WithHTTPClient(client), remoteapi.WithTLS(&tls.Config{})}},
		{"https://fleet.example", "set twice", []remoteapi.Option{remoteapi.WithEnrollSecret(remoteapi.EnrollSecret{Value: "a"}), remoteapi.WithEnrollSecret(remoteapi.EnrollSecret{File: "b"})}},
	} {
		_, err := remoteapi.New(c.server, c.opts...)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%q: got %v, want %q", c.server, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), "geheim") {
			t.Errorf("%q: the password is in %v", c.server, err)
		}
	}
}

// last returns the last request of a call.
func last(t *testing.T, server *remoteapitest.Server, call remoteapitest.Call) remoteapitest.Request {
	t.Helper()
	all := server.Requests()
	for i := len(all) - 1; i >= 0; i-- {
		if all[i].Call == call {
			return all[i]
		}
	}
	t.Fatalf("no %s request", call)
	return remoteapitest.Request{}
}

func TestWhatIsSent(t *testing.T) {
	server, client := serve(t)
	node := enrolled(t, client, "a")
	enroll := last(t, server, remoteapitest.CallEnroll)
	want := `{"enroll_secret":"enroll-secret","host_identifier":"a","platform_type":"9",` +
		`"host_details":{"os_version":{"name":"Ubuntu"}}}`
	if string(enroll.Body) != want {
		t.Errorf("enroll: %s, want %s", enroll.Body, want)
	}
	if got := enroll.Header.Get("Authorization"); got != "" {
		t.Errorf("Authorization before enrolment: %q", got)
	}
	b := batch(`{"a": 1}`, "no JSON", "")
	b.Queue, b.ID = extension.QueueSnapshots, "a é%/1"
	for range 2 { // the same at each try
		if err := client.PublishLogs(within(t, 10*time.Second), node, b); err != nil {
			t.Fatal(err)
		}
	}
	log := last(t, server, remoteapitest.CallLog)
	if want := `{"node_key":"` + node.Key + `","log_type":"result","data":[{"a": 1},"no JSON",""]}`; string(log.Body) != want {
		t.Errorf("log: %s, want %s", log.Body, want)
	}
	for name, want := range map[string]string{
		"Authorization": "NodeKey " + node.Key, "User-Agent": "osquery/5.23.0", "Content-Type": "application/json", "Accept": "application/json",
		remoteapi.HeaderBatchID: "a%20%C3%A9%25/1", remoteapi.HeaderBatch: "queue=snapshots; first=1; last=3",
	} {
		if got := log.Header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	b.Queue = extension.QueueStatus
	if err := client.PublishLogs(within(t, 10*time.Second), node, b); err != nil {
		t.Fatal(err)
	}
	if got := server.Batches("a"); len(got) != 3 || got[2].LogType != "status" || got[2].ID != b.ID {
		t.Errorf("status: %+v", got)
	}
}

func TestHeaderOptions(t *testing.T) {
	server, client := serve(t, remoteapi.WithHeader("x-gateway", "g"), remoteapi.WithHeader("User-Agent", "agent/1"),
		remoteapi.WithQuirks(remoteapi.Quirks{NoNodeKeyHeader: true, NoBatchHeaders: true}),
		remoteapi.WithQuirks(remoteapi.Quirks{ConfigSource: "remote"}),
		remoteapi.WithGzip())
	node := enrolled(t, client, "a")
	if err := client.PublishLogs(within(t, 10*time.Second), node, batch(`{}`)); err != nil {
		t.Fatal(err)
	}
	got := last(t, server, remoteapitest.CallLog).Header
	for name, want := range map[string]string{
		"X-Gateway": "g", "User-Agent": "agent/1", "Authorization": "", remoteapi.HeaderBatchID: "", remoteapi.HeaderBatch: "", "Content-Encoding": "gzip",
	} {
		if got.Get(name) != want {
			t.Errorf("%s: %q, want %q", name, got.Get(name), want)
		}
	}
	config, err := client.Config(within(t, 10*time.Second), node)
	if err != nil || config["remote"] != "{}" || len(config) != 1 {
		t.Errorf("config %v, %v", config, err)
	}
	if got := last(t, server, remoteapitest.CallConfig).Header.Get("Content-Encoding"); got != "" {
		t.Errorf("only log bodies are compressed, config was %q", got)
	}
}

func TestSecrets(t *testing.T) {
	server := start(t)
	path := filepath.Join(t.TempDir(), "secret")
	byFile := dial(t, server.URL(), remoteapi.WithTLS(server.ClientTLS()), remoteapi.WithEnrollSecret(remoteapi.EnrollSecret{File: path}))
	req := ofHost("a")
	for _, step := range []struct {
		content string
		ok      bool
	}{{"", false}, {"wrong", false}, {" \n", false}, {server.EnrollSecret() + "\n", true}} {
		if step.content != "" {
			if err := os.WriteFile(path, []byte(step.content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		key, err := byFile.Enroll(within(t, 10*time.Second), req)
		if (err == nil) != step.ok || (key != "") != step.ok {
			t.Errorf("file %q: %q, %v", step.content, key, err)
		}
	}
	byFunc := dial(t, server.URL(), remoteapi.WithTLS(server.ClientTLS()),
		remoteapi.WithEnrollSecret(remoteapi.EnrollSecret{Func: func(_ context.Context, n extension.Node) (string, error) {
			if n.Instance != "a" {
				return "", errors.New("no secret for this one")
			}
			return server.EnrollSecret(), nil
		}}))
	if _, err := byFunc.Enroll(within(t, 10*time.Second), req); err != nil {
		t.Error(err)
	}
	req.Node.Instance = "b"
	if _, err := byFunc.Enroll(within(t, 10*time.Second), req); err == nil || !strings.Contains(err.Error(), "no secret for this one") {
		t.Errorf("b: %v", err)
	}
}

func TestPresets(t *testing.T) {
	for name, c := range map[string]struct {
		endpoints remoteapi.Endpoints
		opt       remoteapi.Option
		logs      bool
	}{
		"osctrl": {remoteapi.Endpoints{Enroll: "/dev/enroll", Config: "/dev/config", Log: "/dev/log", Read: "/dev/read", Write: "/dev/write"}, remoteapi.ForOsctrl("dev"), true},
		"SGT":    {sgtPaths(), remoteapi.ForSGT(), false},
		"own":    {remoteapi.Endpoints{Enroll: "/e", Config: "/c", Log: "/l", Read: "/r", Write: "/w"}, remoteapi.WithEndpoints(remoteapi.Endpoints{Enroll: "/e", Config: "/c", Log: "/l", Read: "/r", Write: "/w"}), true},
	} {
		server := start(t, remoteapitest.WithEndpoints(c.endpoints))
		client := dial(t, server.URL(), remoteapi.WithTLS(server.ClientTLS()), secretIs(server.EnrollSecret()), c.opt)
		node := enrolled(t, client, "a")
		if _, err := client.Config(within(t, 10*time.Second), node); err != nil {
			t.Errorf("%s: config: %v", name, err)
		}
		if err := client.WriteResults(within(t, 10*time.Second), node, []extension.Result{{ID: "q", Status: 3}}); err != nil {
			t.Errorf("%s: write: %v", name, err)
		}
		if got := server.Results("a"); len(got) != 1 || got[0].Status != 3 {
			t.Errorf("%s: results %+v", name, got)
		}
		err := client.PublishLogs(within(t, 10*time.Second), node, batch(`{}`))
		if (err == nil) != c.logs || !c.logs && !errors.Is(err, extension.ErrUnsupported) {
			t.Errorf("%s: logs: %v", name, err)
		}
	}
}

func TestEmptyAck(t *testing.T) {
	server, client := serve(t, remoteapi.WithQuirks(remoteapi.Quirks{EmptyAck: true}))
	for _, c := range apiCalls() {
		server.FailNext(c.name, 1, remoteapitest.Answer(200, ""))
		err := c.do(within(t, 10*time.Second), client, extension.Node{Key: "key", Instance: "a"})
		acknowledges := c.name == remoteapitest.CallLog || c.name == remoteapitest.CallWrite
		if (err == nil) != acknowledges {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	server.FailNext(remoteapitest.CallWrite, 1, remoteapitest.Answer(200, `{"message":"not parsed","status":"error"}`))
	if err := client.WriteResults(within(t, 10*time.Second), extension.Node{Key: "key"}, []extension.Result{{ID: "q"}}); err == nil {
		t.Error("status error: nil")
	}
}

func TestInjection(t *testing.T) {
	server := start(t)
	base := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: server.RootCAs()}}
	t.Cleanup(base.CloseIdleConnections)
	own := &http.Client{Transport: base}
	enrolled(t, dial(t, server.URL(), remoteapi.WithHTTPClient(own), secretIs(server.EnrollSecret())), "a")
	if own.CheckRedirect != nil {
		t.Error("the host's client was changed")
	}
	proxied := dial(t, server.URL(), remoteapi.WithTLS(server.ClientTLS()),
		remoteapi.WithProxy(func(*http.Request) (*url.URL, error) { return nil, errors.New("asked the proxy function") }))
	_, err := proxied.Config(within(t, 10*time.Second), extension.Node{Key: "key"})
	if err == nil || !strings.Contains(err.Error(), "asked the proxy function") {
		t.Errorf("proxy: %v", err)
	}
}

// TestAllBadEndpointsAreReported: not one after the other, and in one order.
func TestAllBadEndpointsAreReported(t *testing.T) {
	bad := remoteapi.Endpoints{Enroll: "e", Config: "c", Log: "l", Read: "r", Write: "w"}
	_, err := remoteapi.New("https://fleet.example", remoteapi.WithEndpoints(bad))
	if got := strings.Count(err.Error(), "must be a path"); got != 5 {
		t.Errorf("%d of 5: %v", got, err)
	}
}
