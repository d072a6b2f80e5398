package spool

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
)

func small() Options {
	return Options{MaxBytes: 1 << 20, SegmentBytes: 1024, MaxRecord: 512, Sync: SyncNever()}
}

func mustOpen(t testing.TB, dir string, o Options) (*Queue, Recovery) {
	t.Helper()
	q, rep, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = q.Close() })
	return q, rep
}

func mustClose(t testing.TB, q *Queue) {
	t.Helper()
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
}

func lineOf(seq uint64) string { return fmt.Sprintf("line %d of the test", seq) }

func mustAppend(t testing.TB, q *Queue, n int) {
	t.Helper()
	for range n {
		next := q.Stats().Last + 1
		seq, err := q.Append([]byte(lineOf(next)))
		if err != nil || seq != next {
			t.Fatalf("append: seq %d, want %d: %v", seq, next, err)
		}
	}
}

// drain reads everything behind after and returns the lines by number, and the gaps.
func drain(t testing.TB, q *Queue, after uint64) (map[uint64]string, []Gap) {
	t.Helper()
	lines := map[uint64]string{}
	var gaps []Gap
	for {
		b, err := q.Read(after, 7, 0)
		if err != nil {
			t.Fatal(err)
		}
		gaps = append(gaps, b.Gaps...)
		if b.Last == 0 {
			return lines, gaps
		}
		if b.Last <= after {
			t.Fatalf("read after %d went back to %d", after, b.Last)
		}
		for i, l := range b.Lines {
			lines[b.First+uint64(i)] = string(l)
		}
		after = b.Last
	}
}

func segmentFiles(t testing.TB, dir string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*"+segmentSuffix))
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func diskBytes(t testing.TB, dir string) int64 {
	t.Helper()
	var sum int64
	for _, n := range segmentFiles(t, dir) {
		info, err := os.Stat(n)
		if err != nil {
			t.Fatal(err)
		}
		sum += info.Size()
	}
	return sum
}

// badDisk is a file system that fails on demand.
type badDisk struct {
	osFS
	mu           sync.Mutex
	room         int64 // bytes that may still be written to segments; negative: no limit
	failTruncate bool
	failSync     bool
	failCreate   bool
	failRead     bool
	failOpen     error // of an open that makes no file
	failRemove   bool
	writes       int
	open         int
	onSync       func()
}

var errBad = errors.New("the disk refuses")

func (d *badDisk) set(change func(*badDisk)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change(d)
}

func (d *badDisk) get(what func(*badDisk) bool) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return what(d)
}

func (d *badDisk) Open(name string, flag int) (file, error) {
	if flag&os.O_CREATE != 0 && d.get(func(d *badDisk) bool { return d.failCreate }) {
		return nil, syscall.EMFILE
	}
	var refused error
	if d.set(func(d *badDisk) { refused = d.failOpen }); refused != nil && flag&os.O_CREATE == 0 {
		return nil, refused
	}
	f, err := d.osFS.Open(name, flag)
	if err != nil {
		return nil, err
	}
	d.set(func(d *badDisk) { d.open++ })
	return &badFile{file: f, d: d}, nil
}

func (d *badDisk) OpenLocked(name string) (file, error) {
	f, err := d.osFS.OpenLocked(name)
	if err != nil {
		return nil, err
	}
	d.set(func(d *badDisk) { d.open++ })
	return &badFile{file: f, d: d, cursor: true}, nil
}

func (d *badDisk) Remove(name string) error {
	if d.get(func(d *badDisk) bool { return d.failRemove }) {
		return errBad
	}
	return d.osFS.Remove(name)
}

type badFile struct {
	file
	d      *badDisk
	cursor bool
}

func (f *badFile) Close() error {
	f.d.set(func(d *badDisk) { d.open-- })
	return f.file.Close()
}

// WriteAt writes what there is room for, as a full disk does.
func (f *badFile) WriteAt(b []byte, off int64) (int, error) {
	if f.cursor {
		return f.file.WriteAt(b, off)
	}
	f.d.mu.Lock()
	f.d.writes++
	n := len(b)
	if f.d.room >= 0 {
		n = int(min(f.d.room, int64(n)))
		f.d.room -= int64(n)
	}
	f.d.mu.Unlock()
	m, err := f.file.WriteAt(b[:n], off)
	if err == nil && n < len(b) {
		err = syscall.ENOSPC
	}
	return m, err
}

func (f *badFile) ReadAt(b []byte, off int64) (int, error) {
	if !f.cursor && f.d.get(func(d *badDisk) bool { return d.failRead }) {
		return 0, errBad
	}
	return f.file.ReadAt(b, off)
}

func (f *badFile) Truncate(n int64) error {
	if f.d.get(func(d *badDisk) bool { return d.failTruncate }) {
		return errBad
	}
	return f.file.Truncate(n)
}

func (f *badFile) Sync() error {
	f.d.mu.Lock()
	fail, hook := f.d.failSync && !f.cursor, f.d.onSync
	f.d.mu.Unlock()
	if hook != nil && !f.cursor {
		hook()
	}
	if fail {
		return errBad
	}
	return f.file.Sync()
}
