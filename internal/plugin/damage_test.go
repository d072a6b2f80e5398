package plugin

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/internal/delivery"
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
	damageLine(t, dir, want[10])
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

// damageLine changes a bit of a line in the queue of results.
func damageLine(t *testing.T, dir, line string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "queue", "results", "*"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, path := range files {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		at := bytes.Index(data, []byte(line))
		if at < 0 {
			continue
		}
		data[at] ^= 1
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Fatalf("the line %s is in none of %v", line, files)
}

// TestDamageIsAnnouncedOnce: the queues are opened for each run, and find the same
// damage each time until the server accepted what is around it.
func TestDamageIsAnnouncedOnce(t *testing.T) {
	dir := t.TempDir()
	s := &sink{}
	s.set(func(extension.Batch) error { return errDown })
	r := newRig(t, dir, logsTo(s), withDeferredQueues())
	reopen := func() {
		t.Helper()
		if err := r.CloseQueues(); err != nil {
			t.Fatal(err)
		}
		if err := r.OpenQueues(); err != nil {
			t.Fatal(err)
		}
		_ = r.Flush(t.Context()) // it fails, having read
		r.drops.Announce(r.Extension.events)
	}
	lost := func() (n uint64) {
		for _, e := range eventsOf[stats.LogsDropped](r) {
			n += e.Lines
		}
		return n
	}
	if err := r.OpenQueues(); err != nil {
		t.Fatal(err)
	}
	lines := r.logLines(9)
	for i, bad := range []int{3, 5} {
		if err := r.CloseQueues(); err != nil {
			t.Fatal(err)
		}
		damageLine(t, dir, lines[bad])
		for range 3 {
			reopen()
		}
		equal(t, "announced", lost(), uint64(i+1))
	}
	damageLine(t, dir, lines[4]) // while the queue is open: the next read finds it
	s.set(nil)
	if err := r.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	reopen()
	equal(t, "delivered", len(s.lines()), 6)
	equal(t, "announced", lost(), 3)
}

type brokenWriter struct{ left int }

func (w *brokenWriter) Write(p []byte) (int, error) {
	if w.left -= len(p); w.left < 0 {
		return 0, errDown
	}
	return len(p), nil
}

func TestBatchAsLinesAndCompressed(t *testing.T) {
	b := extension.Batch{ID: "a/results/1-2", Lines: [][]byte{[]byte(`{"a":1}`), []byte("\xff")}}
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

// A host that was killed while it wrote a dead letter leaves half a line: the next letter
// begins a new one.
func TestDeadLetterAfterATornOne(t *testing.T) {
	dir := t.TempDir()
	d := delivery.NewDeadLetters(dir, extension.QueueResults, 1<<20)
	if err := os.MkdirAll(filepath.Dir(d.Path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(d.Path, []byte(`{"batch":"torn`), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := d.Keep(extension.Batch{ID: "b", Lines: [][]byte{[]byte("x")}, Bytes: 1}, errDown); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(d.Path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(text), "\n")
	equal(t, "lines", len(lines), 6)
	for _, i := range []int{1, 3} {
		if !strings.HasPrefix(lines[i], `{"batch":"b"`) || lines[i+1] != "x" {
			t.Errorf("the letter at line %d is %q", i, lines[i:])
		}
	}
}
