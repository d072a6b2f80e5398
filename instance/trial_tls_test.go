package instance_test

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/internal/remoteapitest"
	"github.com/osqvisor/osqvisor/internal/testhelp"
)

// shape says what keys a line has, and of what JSON type each value is.
type shape map[string]string

func shapeOf(t *testing.T, prefix string, value map[string]any) shape {
	t.Helper()
	out := shape{}
	for name, v := range value {
		switch v := v.(type) {
		case map[string]any:
			maps.Copy(out, shapeOf(t, prefix+name+".", v))
		case nil:
			out[prefix+name] = "null"
		default:
			out[prefix+name] = reflect.TypeOf(v).Kind().String()
		}
	}
	return out
}

// shapes gives the different shapes of lines, as text.
func shapes(t *testing.T, lines []json.RawMessage) []string {
	t.Helper()
	var out []string
	for _, line := range lines {
		var value map[string]any
		if err := json.Unmarshal(line, &value); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if text := fmt.Sprint(shapeOf(t, "", value)); !slices.Contains(out, text) {
			out = append(out, text)
		}
	}
	slices.Sort(out)
	return out
}

// recorded are the shapes of what the TLS logger of osqueryd 5.23.1 sends of everyKind.
func recorded() map[string][]string {
	result := shape{"name": "string", "hostIdentifier": "string", "calendarTime": "string", "unixTime": "float64",
		"epoch": "float64", "counter": "float64", "numerics": "bool", "decorations.osquery": "string",
		"columns.v": "string", "action": "string"}
	snapshot := maps.Clone(result)
	delete(snapshot, "columns.v")
	snapshot["snapshot"] = "slice"
	status := shape{"hostIdentifier": "string", "calendarTime": "string", "unixTime": "float64", "severity": "float64",
		"filename": "string", "line": "float64", "message": "string", "version": "string", "decorations.osquery": "string"}
	return map[string][]string{"status": {fmt.Sprint(status)}, "result": {fmt.Sprint(result), fmt.Sprint(snapshot)}}
}

// collect waits until a node's lines have every shape, and gives those that they have. Status
// lines without decorations are left out: ours have none before the first result.
func collect(t *testing.T, server *remoteapitest.Server, node func() string) map[string][]string {
	t.Helper()
	ctx := patient(t)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		lines := map[string][]json.RawMessage{}
		for _, b := range server.Batches(node()) {
			lines[b.LogType] = append(lines[b.LogType], b.Lines...)
		}
		got := map[string][]string{"status": shapes(t, lines["status"]), "result": shapes(t, lines["result"])}
		got["status"] = slices.DeleteFunc(got["status"], func(s string) bool { return !strings.Contains(s, "decorations") })
		if len(got["status"]) >= 1 && len(got["result"]) >= 2 {
			return got
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return got
		}
	}
}

// TestTrial08SameAsTheTLSLogger: a server cannot tell our lines from those of osqueryd's own TLS logger,
// which sends to the same server when there is a real one.
func TestTrial08SameAsTheTLSLogger(t *testing.T) {
	each(t, func(t *testing.T, binary string) {
		testhelp.CheckLeaks(t)
		want := recorded()
		if binary == os.Getenv("OSQUERYD") {
			server, _ := fleet(t)
			tlsLogger(t, binary, server)
			want = collect(t, server, enrolledAs(server))
		}
		server, client := fleet(t)
		server.SetConfig("", everyKind)
		r := start(t, binary, instance.WithTransport(client), instance.WithFlag("verbose", "true"),
			instance.WithLogs(extension.Logs{BatchLines: 100, BatchAge: 50 * time.Millisecond}))
		if got := collect(t, server, enrolledAs(server)); !reflect.DeepEqual(got, want) {
			t.Errorf("we send %q, want %q", got, want)
		}
		r.end(t)
	})
}

// enrolledAs gives who enrolled at a server of one node.
func enrolledAs(server *remoteapitest.Server) func() string {
	return func() string {
		for _, r := range server.Requests() {
			if r.Call == remoteapitest.CallEnroll {
				return r.Host
			}
		}
		return ""
	}
}

// tlsLogger runs osqueryd with its own enrolment and TLS logger, until the test ends.
func tlsLogger(t *testing.T, binary string, server *remoteapitest.Server) {
	t.Helper()
	dir := root(t)
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	cmd := exec.Command(binary, "--flagfile=", "--config_plugin=filesystem", "--config_path="+file("config", everyKind),
		"--database_path="+filepath.Join(dir, "db"), "--pidfile="+filepath.Join(dir, "pid"), "--disable_extensions=true",
		"--extensions_socket="+filepath.Join(dir, "s"), "--disable_watchdog=true", "--logger_plugin=tls", "--logger_tls_period=1",
		"--logger_path="+dir, "--verbose=true", "--host_identifier=instance", "--disable_events=true", "--disable_audit=true",
		"--tls_hostname="+strings.TrimPrefix(server.URL(), "https://"), "--tls_server_certs="+file("cert", string(cert)),
		"--enroll_secret_path="+file("secret", server.EnrollSecret()), "--enroll_tls_endpoint=/api/osquery/enroll",
		"--logger_tls_endpoint=/api/osquery/log")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait() // it ends within osqueryd's alarm_timeout
	})
}
