package plugin

import (
	"bytes"
	"slices"
	"testing"

	"github.com/osqvisor/osqvisor/extension"
)

// A batch's lines hold no line break, whatever osqueryd sent: what WriteTo and Gzip write
// has as many lines as the batch, with the same numbers.
func TestTrial10LinesHoldNoLineBreak(t *testing.T) {
	s := &sink{}
	r := newRig(t, t.TempDir(), logsTo(s))
	r.log("string", "{\n  \"a\": \"x\\ny\",\r\n  \"b\": [1.0,\n2]\n}\n")
	r.log("snapshot", "{\"s\":\n1}")
	r.log("event", "{\"e\":1}\n")
	r.log("string_batch", `["{\"b\":\n1}","plain"]`)
	r.log("string", "no JSON\nat\r\nall")
	r.log("string", "{\"raw\":\"in a\nstring\"}")
	r.log("string", " \n\t ")
	r.Call(t.Context(), "logger", "osqvisor", map[string]string{"status": "true", "log": "[{\"m\":\n\"x\"},\n{\"m\":\"y\"}]"})
	if err := r.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := map[extension.Queue][]string{
		extension.QueueResults: {
			"{   \"a\": \"x\\ny\",    \"b\": [1.0, 2] }", "{\"e\":1}", "{\"b\": 1}", "plain", `no JSON\nat\r\nall`,
			`{"raw":"in a\nstring"}`,
		},
		extension.QueueSnapshots: {"{\"s\": 1}"},
	}
	for _, b := range s.taken {
		if w := want[b.Queue]; w != nil && !slices.Equal(linesOf(b), w) {
			t.Errorf("%s: %q, want %q", b.Queue, linesOf(b), w)
		}
		countsAgree(t, b)
	}
	equal(t, "batches", len(s.taken), 3)
}

// countsAgree holds the lines that WriteTo writes against the numbers of the batch.
func countsAgree(t *testing.T, b extension.Batch) {
	t.Helper()
	var plain bytes.Buffer
	if _, err := b.WriteTo(&plain); err != nil {
		t.Fatal(err)
	}
	for what, n := range map[string]int{"held": len(b.Lines), "written": bytes.Count(plain.Bytes(), []byte("\n"))} {
		if n != int(b.Last-b.First+1) {
			t.Errorf("%s: %d lines are %s", b.ID, n, what)
		}
	}
}
