package extension

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"reflect"
	"slices"
	"strings"
	"testing"
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
	want := map[Queue][]string{
		QueueResults: {
			"{   \"a\": \"x\\ny\",    \"b\": [1.0, 2] }", "{\"e\":1}", "{\"b\": 1}", "plain", `no JSON\nat\r\nall`,
			`{"raw":"in a\nstring"}`,
		},
		QueueSnapshots: {"{\"s\": 1}"},
	}
	for _, b := range s.taken {
		if w := want[b.Queue]; w != nil && !slices.Equal(linesOf(b), w) {
			t.Errorf("%s: %q, want %q", b.Queue, linesOf(b), w)
		}
		countsAgree(t, b)
	}
	equal(t, "batches", len(s.taken), 3)
}

func countsAgree(t *testing.T, b Batch) {
	t.Helper()
	if n := int(b.Last - b.First + 1); n != len(b.Lines) {
		t.Errorf("%s has %d lines", b.ID, len(b.Lines))
	}
	var plain bytes.Buffer
	if _, err := b.WriteTo(&plain); err != nil {
		t.Fatal(err)
	}
	small, err := b.Gzip()
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(small))
	if err != nil {
		t.Fatal(err)
	}
	unpacked, err := io.ReadAll(z)
	if err != nil || !bytes.Equal(unpacked, plain.Bytes()) {
		t.Errorf("%s: Gzip differs from WriteTo: %v", b.ID, err)
	}
	if n := bytes.Count(plain.Bytes(), []byte("\n")); n != len(b.Lines) {
		t.Errorf("%s: %d lines are written as %d", b.ID, len(b.Lines), n)
	}
}

// A batch that a host made itself, with line breaks in it, keeps its numbers too.
func TestTrial10WriteToKeepsTheNumbers(t *testing.T) {
	b := Batch{ID: "b", First: 4, Last: 6, Lines: [][]byte{[]byte("{\"a\":\n1}"), []byte("x\r\ny"), nil}}
	countsAgree(t, b)
	equal(t, "the batch's own line", string(b.Lines[0]), "{\"a\":\n1}")
}

func FuzzTrial10OneLine(f *testing.F) {
	for _, seed := range []string{"{\"a\":\n\"b\\n\"}", "\n", "a\r\nb", "[1,\r2]", "\"\n\"", "{}", "{\"\xff\":\n1}"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		line := oneLine(text)
		spaced := strings.TrimRight(strings.NewReplacer("\r", " ", "\n", " ").Replace(text), " ")
		if json.Valid([]byte(text)) && strings.TrimRight(line, " ") != spaced {
			t.Fatalf("%q became %q", text, line)
		}
		if strings.ContainsAny(line, "\r\n") {
			t.Fatalf("%q became %q", text, line)
		}
		var before, after any
		if json.Unmarshal([]byte(text), &before) != nil {
			return
		}
		if err := json.Unmarshal([]byte(line), &after); err != nil || !reflect.DeepEqual(before, after) {
			t.Fatalf("%q became %q: %v", text, line, err)
		}
	})
}
