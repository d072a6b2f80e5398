package plugin

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/internal/delivery"
)

// pluginStatus is what osqueryd 5.23 hands a logger plugin.
const pluginStatus = `[{"s":0,"f":"config.cpp","i":1241,"m":"a <b> \"c\" ž","h":"node-1",` +
	`"c":"Sat Nov 28 01:02:03 2026 UTC","u":1795827723},` +
	`{"s":2,"f":"scheduler.cpp","i":7,"m":"","h":"","c":"Sat Nov 28 01:02:04 2026 UTC","u":1795827724}]`

// tlsStatus is what osqueryd's own TLS logger makes of it.
var tlsStatus = []string{
	`{"hostIdentifier":"node-1","calendarTime":"Sat Nov 28 01:02:03 2026 UTC","unixTime":1795827723,"severity":0,` +
		`"filename":"config.cpp","line":1241,"message":"a <b> \"c\" ž","version":"5.23.1"}`,
	`{"hostIdentifier":"node-of-a","calendarTime":"Sat Nov 28 01:02:04 2026 UTC","unixTime":1795827724,"severity":2,` +
		`"filename":"scheduler.cpp","line":7,"message":"","version":"5.23.1"}`,
}

func namedNode() extension.Node {
	return extension.Node{Instance: "a", Run: "r1", OsqueryVersion: "5.23.1", HostIdentifier: "node-of-a"}
}

func (r *rig) status(log string) {
	r.t.Helper()
	r.Call(r.t.Context(), "logger", "osqvisor", map[string]string{"status": "true", "log": log})
}

func (r *rig) flush() {
	r.t.Helper()
	if err := r.Flush(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
}

func TestTrial08StatusLinesAreWhatServersRead(t *testing.T) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	s, dir := &sink{}, t.TempDir()
	r := newRig(t, dir, logsTo(s), withNode(namedNode), withSigner(private))
	r.status(pluginStatus)
	r.flush()
	sameLines(t, s.lines(), tlsStatus)
	b := s.taken[0]
	equal(t, "first", b.First, 1)
	equal(t, "last", b.Last, 2)
	equal(t, "bytes", b.Bytes, len(tlsStatus[0])+len(tlsStatus[1]))
	if err := extension.Verify(public, b); err != nil {
		t.Errorf("the signature is not over what is sent: %v", err)
	}
	var kept []byte
	err = filepath.WalkDir(filepath.Join(dir, "queue"), func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		kept = append(kept, data...)
		return err
	})
	if err != nil || !bytes.Contains(kept, []byte(`{"s":0,"f":"config.cpp"`)) {
		t.Errorf("the queue does not hold osqueryd's own bytes: %v", err)
	}
}

// TestTrial08DecorationsOfResultsAreThoseOfStatusLines: osqueryd does not hand them over with a status line.
func TestTrial08DecorationsOfResultsAreThoseOfStatusLines(t *testing.T) {
	s := &sink{}
	r := newRig(t, t.TempDir(), logsTo(s), withNode(namedNode))
	last := func() string {
		t.Helper()
		r.status(pluginStatus)
		r.flush()
		lines := s.lines()
		return lines[len(lines)-1]
	}
	with := strings.TrimSuffix(tlsStatus[1], "}") + `,"decorations":`
	first := with + `{"n":"1","user":"<u>"}}`
	for _, c := range []struct{ key, line, want string }{
		{"", "", tlsStatus[1]},
		{"string", `{"name":"q","hostIdentifier":"h","decorations":{"user":"<u>","n":"1"},"columns":{}}`, first},
		{"string", `not JSON`, first},
		{"event", `{"pid":"1"}`, first},
		{"string", `{"name":"q","hostIdentifier":"h","decorations":["x"]}`, first},
		{"snapshot", `{"name":"q","hostIdentifier":"h","decorations":{ "user" : "v" },"snapshot":[]}`, with + `{"user":"v"}}`},
		{"string", `{"name":"q","hostIdentifier":"h","columns":{}}`, tlsStatus[1]},
	} {
		if c.key != "" {
			r.log(c.key, c.line)
			r.flush()
		}
		if got := last(); got != c.want {
			t.Errorf("after %s: %s\nwant %s", c.line, got, c.want)
		}
	}
}

// TestTrial08NumbersOfOlderVersions: until 5.10, osqueryd wrote them as strings.
func TestTrial08NumbersOfOlderVersions(t *testing.T) {
	line := [][]byte{[]byte(`{"s":0,"f":"f","i":7,"m":"m","h":"h","c":"c","u":9}`)}
	for version, want := range map[string]string{
		"5.9.1": `"unixTime":"9","severity":"0","filename":"f","line":"7"`, "4.9.0": `"unixTime":"9","severity":"0","filename":"f","line":"7"`,
		"5.10.2": `"unixTime":9,"severity":0,"filename":"f","line":7`, "6.0.0": `"unixTime":9,"severity":0,"filename":"f","line":7`,
		"": `"unixTime":9,"severity":0,"filename":"f","line":7`,
	} {
		form := &delivery.StatusForm{}
		if got := string(form.Shape(extension.Node{OsqueryVersion: version}, line)[0]); !strings.Contains(got, want) {
			t.Errorf("%q: %s", version, got)
		}
	}
}

// TestTrial08OtherLinesStay: what is not a status line of osqueryd's goes on as it is, one for one.
func TestTrial08OtherLinesStay(t *testing.T) {
	s := &sink{}
	r := newRig(t, t.TempDir(), logsTo(s), withNode(namedNode))
	odd := []string{
		`{"m":"x"}`, `7`, `"text"`, `null`, `[]`, `{"s":[],"f":"x","i":1,"m":"m"}`, `{"s":0,"f":1,"i":1,"m":"m"}`, `{"s":0,"f":"x","i":{},"m":"m"}`,
	}
	r.status("[" + strings.Join(odd, ",") + "]")
	r.Call(t.Context(), "logger", "osqvisor", map[string]string{"health": `{"health":"good"}`})
	r.flush()
	sameLines(t, s.lines(), append(odd, `{"health":"good"}`))
}

// FuzzStatusForm: a line is a line, whatever it holds, and what was made once is not made again.
func FuzzStatusForm(f *testing.F) {
	f.Add([]byte(`{"s":0,"f":"config.cpp","i":1241,"m":"m\n","h":"node","c":"now","u":1}`), "host", "5.23.1")
	f.Add([]byte(`{"s":"1","f":"","i":1e9,"m":""}`), "", "")
	f.Add([]byte("\xff"), "\xff", "")
	f.Fuzz(func(t *testing.T, line []byte, host, version string) {
		node := extension.Node{HostIdentifier: host, OsqueryVersion: version}
		form := &delivery.StatusForm{}
		once := form.Shape(node, [][]byte{line})
		twice := form.Shape(node, once)
		if len(once) != 1 || len(twice) != 1 || !bytes.Equal(once[0], twice[0]) {
			t.Fatalf("%q became %q and then %q", line, once, twice)
		}
		if bytes.Equal(once[0], line) {
			return
		}
		var got map[string]any
		if err := json.Unmarshal(once[0], &got); err != nil || len(got) != 8 || bytes.ContainsAny(once[0], "\n\r") {
			t.Fatalf("%q became %q: %v", line, once[0], err)
		}
	})
}
