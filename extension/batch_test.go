package extension

import (
	"bytes"
	"compress/gzip"
	"io"
	"testing"

	"github.com/osqvisor/osqvisor/internal/testhelp"
)

func batchCounts(t *testing.T, b Batch) {
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
	batchCounts(t, b)
	testhelp.Equal(t, "the batch's own line", string(b.Lines[0]), "{\"a\":\n1}")
}
