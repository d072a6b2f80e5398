package extension

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/osqvisor/osqvisor/stats"
)

// TestDamagedQueueIsMendedAndAnnounced: what a power cut or a bad disk did to a
// queue is counted, and every other line is delivered.
func TestDamagedQueueIsMendedAndAnnounced(t *testing.T) {
	dir := t.TempDir()
	s := &sink{}
	r := newRig(t, dir, logsTo(s))
	want := r.logLines(30)
	r.shut()
	files, err := filepath.Glob(filepath.Join(dir, "queue", "results", "*"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	flipped := false
	for _, path := range files {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if at := bytes.Index(data, []byte(want[10])); at >= 0 {
			data[at] ^= 1
			flipped = os.WriteFile(path, data, 0o600) == nil
		}
	}
	if !flipped {
		t.Fatalf("line 10 is in none of %v", files)
	}
	r = newRig(t, dir, logsTo(s))
	if err := r.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	more := r.logLines(2)
	if err := r.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.shut()
	sameLines(t, s.lines(), append(append(want[:10:10], want[11:]...), more...))
	lost := eventsOf[stats.LogsDropped](r)
	if len(lost) != 1 || lost[0].Lines != 1 || lost[0].Reason != "damaged" || lost[0].Queue != "results" {
		t.Errorf("announced: %+v", lost)
	}
}

type brokenWriter struct{ left int }

func (w *brokenWriter) Write(p []byte) (int, error) {
	if w.left -= len(p); w.left < 0 {
		return 0, errDown
	}
	return len(p), nil
}

func TestBatchAsLinesAndCompressed(t *testing.T) {
	b := Batch{ID: "a/results/1-2", Lines: [][]byte{[]byte(`{"a":1}`), []byte("\xff")}}
	const want = "{\"a\":1}\n\xff\n"
	var plain strings.Builder
	if n, err := b.WriteTo(&plain); err != nil || n != int64(len(want)) || plain.String() != want {
		t.Errorf("%d bytes, %q, %v", n, plain.String(), err)
	}
	if _, err := b.WriteTo(&brokenWriter{left: 9}); !errors.Is(err, errDown) || !strings.Contains(err.Error(), b.ID) {
		t.Errorf("a writer that fails: %v", err)
	}
	small, err := b.Gzip()
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(small))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(z); err != nil || string(got) != want {
		t.Errorf("%q, %v", got, err)
	}
}
