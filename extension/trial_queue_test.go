package extension

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// deliver queues n lines and has m take them.
func deliver(t *testing.T, m *Memory, dir, prefix string, n int, opts ...Option) {
	t.Helper()
	r := newRig(t, dir, append([]Option{WithTransport(m)}, opts...)...)
	for i := range n {
		r.log("string", fmt.Sprintf("%s %d", prefix, i))
	}
	if err := r.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.shut()
}

// Whatever becomes of a queue's files, a batch of new lines has an id that no batch ever had.
func TestTrial01IDsAreUniqueForEver(t *testing.T) {
	harm := map[string]func(dir string) error{
		"directory removed": os.RemoveAll,
		"queue removed":     func(dir string) error { return os.RemoveAll(filepath.Join(dir, "queue")) },
		"cursor removed":    func(dir string) error { return os.Remove(filepath.Join(dir, "queue", "results", "cursor")) },
		"cursor emptied": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "queue", "results", "cursor"), nil, 0o600)
		},
		"cursor overwritten": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "queue", "results", "cursor"), make([]byte, 8192), 0o600)
		},
		"segments removed": func(dir string) error {
			files, err := filepath.Glob(filepath.Join(dir, "queue", "results", "*.spool"))
			for _, f := range files {
				err = errors.Join(err, os.Remove(f))
			}
			return err
		},
	}
	for name, do := range harm {
		t.Run(name, func(t *testing.T) {
			m, dir := NewMemory(), filepath.Join(t.TempDir(), "a")
			var want []string
			for round := range 3 {
				deliver(t, m, dir, fmt.Sprint("round ", round), 5, WithLogBatch(5, 1<<20, 0))
				for i := range 5 {
					want = append(want, fmt.Sprintf("round %d %d", round, i))
				}
				if err := do(dir); err != nil {
					t.Fatal(err)
				}
			}
			have := map[string]bool{}
			for _, line := range m.Logs("a", QueueResults) {
				have[line] = true
			}
			for _, line := range want {
				if !have[line] {
					t.Errorf("%q was delivered under an id that the server had already", line)
				}
			}
		})
	}
}

// Two hosts that call an instance by the same name share no id, and an id stays over restarts.
func TestTrial01EpochOfAQueue(t *testing.T) {
	ids, epochs := map[string]bool{}, map[string]bool{}
	for range 2 {
		m, dir := NewMemory(), t.TempDir()
		for range 2 {
			deliver(t, m, dir, "line", 1)
		}
		batches := m.Batches("a")
		equal(t, "batches", len(batches), 2)
		equal(t, "epoch after a restart", batches[1].Epoch, batches[0].Epoch)
		equal(t, "number after a restart", batches[1].First, batches[0].Last+1)
		for _, b := range batches {
			equal(t, "id", b.ID, fmt.Sprintf("a/results/%s/%d-%d", b.Epoch, b.First, b.Last))
			ids[b.ID], epochs[b.Epoch] = true, true
		}
	}
	equal(t, "ids", len(ids), 4)
	equal(t, "epochs", len(epochs), 2)
}

// After the batch under way was evicted and the host restarted, the next batch is as large as the options allow, no larger.
func TestTrial05BatchAfterAnEvictedPin(t *testing.T) {
	dir, s := t.TempDir(), &sink{}
	s.set(func(Batch) error { return errDown })
	opts := []Option{logsTo(s), WithLogBatch(10, 1<<20, 0), WithQueueLimit(1 << 20), WithLineLimit(1 << 10)}
	r := newRig(t, dir, opts...)
	line := fmt.Sprintf("%1000d", 1)
	for range 10 {
		r.log("string", line)
	}
	_ = r.Flush(t.Context()) // it is refused, and stays pinned
	for range 3000 {
		r.log("string", line)
	}
	r.shut()
	s.set(nil)
	r = newRig(t, dir, opts...)
	if err := r.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.shut()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.taken) < 10 {
		t.Fatalf("%d batches were taken", len(s.taken))
	}
	for _, b := range s.taken {
		if len(b.Lines) > 10 {
			t.Fatalf("a batch of %d lines, where 10 are allowed", len(b.Lines))
		}
	}
}
