package spool

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func budgeted(b *Budget, full Full) Options {
	o := Options{MaxBytes: 1 << 20, SegmentBytes: 2048, MaxRecord: 1000, Sync: SyncNever(), Budget: b, Full: full}
	return o
}

// Queues with one budget never hold more than it together, each keeps its part whatever the others do, and the sum goes on
// over a Close.
func TestTrial36BudgetOfManyQueues(t *testing.T) {
	const bytes = 64 << 10
	b := NewBudget(bytes, nil)
	top := t.TempDir()
	line := []byte(strings.Repeat("x", 500))
	greedy, _ := mustOpen(t, filepath.Join(top, "greedy"), budgeted(b, EvictOldest))
	for range 1000 {
		if _, err := greedy.Append(line); err != nil {
			t.Fatal(err)
		}
	}
	if s := greedy.Stats(); s.Dropped.Evicted == 0 || s.Bytes > bytes/2 || b.Used() != s.Bytes {
		t.Fatalf("%+v, %d in use", s, b.Used())
	}
	mustClose(t, greedy)
	for _, name := range []string{"a", "b", "c"} {
		q, _ := mustOpen(t, filepath.Join(top, name), budgeted(b, EvictOldest))
		for range 200 {
			if _, err := q.Append(line); err != nil {
				t.Fatal(err)
			}
			if b.Used() > bytes {
				t.Fatalf("%d bytes of %d", b.Used(), bytes)
			}
		}
		if s := q.Stats(); s.Records < 3 {
			t.Errorf("%s has no part of its own: %+v", name, s)
		}
	}
	if got := dirBytes(t, top); got > bytes || got != b.Used() {
		t.Fatalf("%d bytes on disk, %d counted", got, b.Used())
	}
	if err := os.RemoveAll(filepath.Join(top, "greedy")); err != nil {
		t.Fatal(err)
	}
	b.pruned = b.pruned.Add(-lookEvery)
	b.prune()
	if got := dirBytes(t, top); got != b.Used() {
		t.Fatalf("%d bytes on disk, %d counted after a directory was removed", got, b.Used())
	}
}

func dirBytes(t *testing.T, top string) (sum int64) {
	t.Helper()
	dirs, err := filepath.Glob(filepath.Join(top, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range dirs {
		sum += diskBytes(t, d)
	}
	return sum
}

// A full queue that refuses the newest lines keeps the oldest, and works again when they are acknowledged.
func TestTrial36RefuseNewest(t *testing.T) {
	o := Options{MaxBytes: 8192, SegmentBytes: 2048, MaxRecord: 1000, Sync: SyncNever(), Full: RefuseNewest}
	dir := t.TempDir()
	q, _ := mustOpen(t, dir, o)
	n := uint64(0)
	for {
		if _, err := q.Append([]byte(strings.Repeat("x", 400))); err != nil {
			if !errors.Is(err, ErrFull) {
				t.Fatal(err)
			}
			break
		}
		n++
	}
	if s := q.Stats(); s.Records != n || n < 15 || s.Dropped.Evicted != 0 || s.Bytes > o.MaxBytes {
		t.Fatalf("%d lines: %+v", n, s)
	}
	if err := q.Ack(n); err != nil {
		t.Fatal(err)
	}
	for range n - 5 { // the newest segment stays until there is another
		if _, err := q.Append([]byte(strings.Repeat("x", 400))); err != nil {
			t.Fatal(err)
		}
	}
}

// While the disk has less room than is to be left, a queue does not grow: new lines take the place of the oldest, or are
// refused.
func TestTrial36FreeSpaceIsLeft(t *testing.T) {
	for _, full := range []Full{EvictOldest, RefuseNewest} {
		free := int64(1 << 30)
		b := NewBudget(0, func(total int64) int64 { return total / 20 })
		b.space = func(string) diskSpace { return diskSpace{free: free, total: 1 << 30} }
		q, _ := mustOpen(t, t.TempDir(), budgeted(b, full))
		line := []byte(strings.Repeat("x", 400))
		for range 40 {
			if _, err := q.Append(line); err != nil {
				t.Fatal(err)
			}
		}
		before := q.Stats().Bytes
		free = 1 << 20
		q.share.looked.Store(0)
		for range 100 {
			if _, err := q.Append(line); (err == nil) != (full == EvictOldest) || err != nil && !errors.Is(err, ErrFull) {
				t.Fatal(err)
			}
			if got := q.Stats().Bytes; got > before {
				t.Fatalf("the queue grew from %d to %d bytes", before, got)
			}
		}
		free = 1 << 30
		q.share.looked.Store(0)
		for range 100 {
			if _, err := q.Append(line); err != nil {
				t.Fatal(err)
			}
		}
		if got := q.Stats().Bytes; got <= before {
			t.Fatalf("there is room again, and the queue has %d bytes of %d", got, before)
		}
	}
}
