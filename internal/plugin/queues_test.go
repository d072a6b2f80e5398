package plugin

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/internal/spool"
)

// Two extensions of one directory take turns, and the second has what the first left.
func TestDeferredQueuesTakeTurns(t *testing.T) {
	dir := t.TempDir()
	open := func() *Extension {
		e, err := open(withDir(dir), withNode(testNode), withDeferredQueues(), withTransport(extension.Funcs{LogsFunc: (&sink{}).publish}))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = e.Close() })
		return e
	}
	a, b := open(), open()
	for range 2 { // opening twice is once
		if err := a.OpenQueues(); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.shippers[0].Append([]byte("line")); err != nil {
		t.Fatal(err)
	}
	if err := b.OpenQueues(); err == nil {
		t.Fatal("two extensions opened the queues of one directory")
	}
	if err := a.CloseQueues(); err != nil {
		t.Fatal(err)
	}
	if _, err := a.shippers[0].Store.Append([]byte("late")); !errors.Is(err, spool.ErrClosed) {
		t.Fatalf("append to a closed queue: %v", err)
	}
	if err := b.OpenQueues(); err != nil {
		t.Fatal(err)
	}
	for name, e := range map[string]*Extension{"a": a, "b": b} {
		if n := e.Pending()[string(extension.QueueResults)]; n != 1 {
			t.Errorf("%s tells of %d lines that wait, want 1", name, n)
		}
	}
}

// A batch that was under way when the queues were closed keeps its id.
func TestReopenedQueuesGoOn(t *testing.T) {
	s := &sink{}
	s.set(func(extension.Batch) error { return errDown })
	r := newRig(t, t.TempDir(), logsTo(s), withLogBatch(2, 1<<20, 0), withDeferredQueues())
	for range 3 {
		if err := r.OpenQueues(); err != nil {
			t.Fatal(err)
		}
		r.logLines(3)
		if err := r.Flush(t.Context()); err == nil {
			t.Fatal("delivered")
		}
		if err := r.CloseQueues(); err != nil {
			t.Fatal(err)
		}
	}
	s.set(nil)
	if err := r.OpenQueues(); err != nil {
		t.Fatal(err)
	}
	if err := r.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	equal(t, "lines", len(s.lines()), 9)
	for _, id := range s.ids()[:4] {
		equal(t, "id", id, "a/results/1-2")
	}
}

// A queue that never held a line has no files; the first line makes them, however many
// goroutines bring one.
func TestQueueWithoutLinesHasNoFiles(t *testing.T) {
	dir := t.TempDir()
	s := &sink{}
	r := newRig(t, dir, logsTo(s), withDeferredQueues())
	files := func() (names []string) {
		t.Helper()
		paths, err := filepath.Glob(filepath.Join(dir, "queue", "*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range paths {
			names = append(names, filepath.Base(p))
		}
		return names
	}
	for range 2 {
		if err := r.OpenQueues(); err != nil {
			t.Fatal(err)
		}
		if err := r.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		equal(t, "queues with files", len(files()), 0)
		if err := r.CloseQueues(); err != nil {
			t.Fatal(err)
		}
		if _, err := r.shippers[0].Store.Append([]byte("late")); !errors.Is(err, spool.ErrClosed) {
			t.Fatalf("append to a closed queue: %v", err)
		}
	}
	if err := r.OpenQueues(); err != nil {
		t.Fatal(err)
	}
	const writers = 8
	var wait sync.WaitGroup
	for range writers {
		wait.Go(func() {
			if err := r.shippers[0].Append([]byte("line")); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	equal(t, "queues with files", len(files()), 1)
	if err := r.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	equal(t, "lines", len(s.lines()), writers)
}

// A line that comes when the files cannot be made is lost and counted; the next one is kept.
func TestQueueFilesCannotBeMade(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, dir, logsTo(&sink{}), withDeferredQueues())
	if err := r.OpenQueues(); err != nil {
		t.Fatal(err)
	}
	inTheWay := filepath.Join(dir, "queue")
	if err := os.WriteFile(inTheWay, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.shippers[0].Append([]byte("lost")); err == nil {
		t.Fatal("a line was kept although no file could be made")
	}
	if err := os.Remove(inTheWay); err != nil {
		t.Fatal(err)
	}
	if err := r.shippers[0].Append([]byte("kept")); err != nil {
		t.Fatal(err)
	}
	equal(t, "lines that wait", r.Pending()[string(extension.QueueResults)], 1)
	equal(t, "lines that were lost", len(r.drops.Lost), 1)
}

// A queue whose files somebody took away between two runs begins anew, and is not
// asked for lines that it had.
func TestReopenedWithoutFilesIsEmpty(t *testing.T) {
	dir := t.TempDir()
	s := &sink{}
	s.set(func(extension.Batch) error { return errDown })
	r := newRig(t, dir, logsTo(s), withDeferredQueues())
	if err := r.OpenQueues(); err != nil {
		t.Fatal(err)
	}
	r.logLines(3)
	if err := r.Flush(t.Context()); err == nil {
		t.Fatal("delivered")
	}
	if err := r.CloseQueues(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(dir, "queue")); err != nil {
		t.Fatal(err)
	}
	if err := r.OpenQueues(); err != nil {
		t.Fatal(err)
	}
	equal(t, "lines that wait", r.Pending()[string(extension.QueueResults)], 0)
	if err := r.Flush(t.Context()); err != nil {
		t.Error(err)
	}
}
