package spool

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

func TestOrderAcrossReopenAndAck(t *testing.T) {
	dir := t.TempDir()
	q, rep := mustOpen(t, dir, small())
	if !rep.Clean() || rep.Next != 1 {
		t.Fatalf("fresh queue: %+v", rep)
	}
	mustAppend(t, q, 100)
	if err := q.Ack(41); err != nil {
		t.Fatal(err)
	}
	mustClose(t, q)
	q, rep = mustOpen(t, dir, small())
	if !rep.Clean() || rep.Next != 101 || rep.Acked != 41 || rep.Records != 59 {
		t.Fatalf("reopened: %+v", rep)
	}
	mustAppend(t, q, 5)
	lines, gaps := drain(t, q, 0)
	if len(lines) != 64 || len(gaps) != 0 {
		t.Fatalf("%d lines, gaps %v", len(lines), gaps)
	}
	for seq := uint64(42); seq <= 105; seq++ {
		if lines[seq] != lineOf(seq) {
			t.Fatalf("line %d is %q", seq, lines[seq])
		}
	}
}

func TestAckDeletesAndNumbersGoOn(t *testing.T) {
	dir := t.TempDir()
	q, _ := mustOpen(t, dir, small())
	mustAppend(t, q, 200)
	if err := q.Ack(200); err != nil {
		t.Fatal(err)
	}
	if n := len(segmentFiles(t, dir)); n != 1 {
		t.Fatalf("%d segments left", n)
	}
	if s := q.Stats(); s.Records != 0 || s.Segments != 1 || s.Bytes != diskBytes(t, dir) {
		t.Fatalf("stats %+v", s)
	}
	mustClose(t, q)
	if err := os.Remove(filepath.Join(dir, cursorName)); err != nil {
		t.Fatal(err)
	}
	q, rep := mustOpen(t, dir, small())
	if rep.Next != 201 || !rep.CursorLost {
		t.Fatalf("without a cursor the numbers went back: %+v", rep)
	}
	mustAppend(t, q, 1)
}

func TestAckAndPinRefuseWhatWasNeverAppended(t *testing.T) {
	q, _ := mustOpen(t, t.TempDir(), small())
	mustAppend(t, q, 3)
	if err := q.Ack(4); !errors.Is(err, ErrSequence) {
		t.Fatal(err)
	}
	if err := q.Pin(4); !errors.Is(err, ErrSequence) {
		t.Fatal(err)
	}
	if err := errors.Join(q.Ack(2), q.Ack(1), q.Ack(2)); err != nil {
		t.Fatal(err)
	}
	if got := q.Stats().Acked; got != 2 {
		t.Fatalf("acked %d", got)
	}
}

func TestPinKeepsTheBatchAcrossReopen(t *testing.T) {
	dir := t.TempDir()
	q, _ := mustOpen(t, dir, small())
	mustAppend(t, q, 5)
	if err := q.Pin(5); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, q, 5)
	mustClose(t, q)
	q, rep := mustOpen(t, dir, small())
	b, err := q.Read(0, 0, 0)
	if err != nil || b.First != 1 || b.Last != 5 || rep.Pinned != 5 {
		t.Fatalf("%d to %d, %+v, %v", b.First, b.Last, rep, err)
	}
	if err := q.Ack(5); err != nil {
		t.Fatal(err)
	}
	if b, err = q.Read(0, 0, 0); err != nil || b.First != 6 || b.Last != 10 {
		t.Fatalf("after the pin: %d to %d, %v", b.First, b.Last, err)
	}
}

func TestReadLimits(t *testing.T) {
	q, _ := mustOpen(t, t.TempDir(), Options{Sync: SyncNever()})
	for _, n := range []int{10, 10, 200_000, 10, 10} {
		if _, err := q.Append([]byte(strings.Repeat("x", n))); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		after          uint64
		records, bytes int
		first, last    uint64
	}{
		{0, 1, 0, 1, 1}, {0, 0, 20, 1, 2}, {0, 0, 29, 1, 2}, {0, 0, 0, 1, 5}, {2, 0, 15, 3, 3},
		{3, 9, 15, 4, 4}, {1, 2, 1 << 20, 2, 3}, {5, 1, 1, 0, 0}, {4, 0, 1, 5, 5},
	} {
		for range 2 { // the second time from the remembered position
			b, err := q.Read(c.after, c.records, c.bytes)
			if err != nil || b.First != c.first || b.Last != c.last {
				t.Errorf("%+v: got %d to %d, %v", c, b.First, b.Last, err)
			}
		}
	}
}

func TestLinesOfABatchStay(t *testing.T) {
	q, _ := mustOpen(t, t.TempDir(), Options{Sync: SyncNever()})
	mustAppend(t, q, 10_000) // several chunks
	b, err := q.Read(0, 0, 0)
	if err != nil || len(b.Lines) != 10_000 {
		t.Fatalf("%d lines: %v", len(b.Lines), err)
	}
	for i, l := range b.Lines {
		if string(l) != lineOf(uint64(i)+1) {
			t.Fatalf("line %d is %q", i+1, l)
		}
	}
}

func TestSecondOpenerIsRefused(t *testing.T) {
	dir := t.TempDir()
	q, _ := mustOpen(t, dir, small())
	if _, _, err := Open(dir, small()); !errors.Is(err, ErrLocked) {
		t.Fatal(err)
	}
	mustClose(t, q)
	mustOpen(t, dir, small())
}

func TestClosed(t *testing.T) {
	q, _ := mustOpen(t, t.TempDir(), small())
	mustAppend(t, q, 1)
	mustClose(t, q)
	mustClose(t, q)
	_, err1 := q.Append([]byte("x"))
	_, err2 := q.Read(0, 1, 1)
	for _, err := range []error{err1, err2, q.Ack(1), q.Pin(1), q.Sync()} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("after close: %v", err)
		}
	}
}

func TestModes(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no modes")
	}
	dir := filepath.Join(t.TempDir(), "a", "b")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	q, _ := mustOpen(t, dir, small())
	mustAppend(t, q, 1)
	for path, want := range map[string]os.FileMode{
		dir: 0o700, filepath.Join(dir, cursorName): 0o600, segmentFiles(t, dir)[0]: 0o600,
	} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v %v", path, info.Mode(), err)
		}
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for want, o := range map[string]Options{
		"MaxBytes":      {MaxBytes: 100, SegmentBytes: 1000, MaxRecord: 10},
		"SegmentBytes":  {SegmentBytes: 10},
		"MaxRecord":     {SegmentBytes: 1000, MaxRecord: 1000},
		"sync interval": {Sync: SyncInterval(-time.Second)},
	} {
		if _, _, err := Open(t.TempDir(), o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

func TestTooLargeIsRefused(t *testing.T) {
	q, _ := mustOpen(t, t.TempDir(), small())
	if _, err := q.Append(make([]byte, 513)); !errors.Is(err, ErrTooLarge) {
		t.Fatal(err)
	}
	if _, err := q.Append(make([]byte, 512)); err != nil {
		t.Fatal(err)
	}
	if s := q.Stats(); s.Last != 1 || s.Appended != 1 {
		t.Fatalf("%+v", s)
	}
}

func TestEmptyLine(t *testing.T) {
	q, _ := mustOpen(t, t.TempDir(), small())
	if _, err := q.Append(nil); err != nil {
		t.Fatal(err)
	}
	if b, err := q.Read(0, 0, 0); err != nil || len(b.Lines) != 1 || len(b.Lines[0]) != 0 {
		t.Fatalf("%+v %v", b, err)
	}
}

func TestEvictionKeepsTheBound(t *testing.T) {
	dir := t.TempDir()
	o := small()
	o.MaxBytes = 4096
	var lost, next uint64 = 0, 1
	o.OnLoss = func(l Loss) {
		if l.Reason != Evicted || l.First != next || l.Records != l.Last-l.First+1 {
			t.Errorf("loss %+v, expected it to start at %d", l, next)
		}
		next = l.Last + 1
		lost += l.Records
	}
	q, _ := mustOpen(t, dir, o)
	for range 500 {
		mustAppend(t, q, 1)
		if n := diskBytes(t, dir); n > o.MaxBytes || n != q.Stats().Bytes {
			t.Fatalf("%d bytes on disk, %d in Stats", n, q.Stats().Bytes)
		}
	}
	s := q.Stats()
	lines, gaps := drain(t, q, 0)
	if lost == 0 || s.Dropped.Evicted != lost || s.Records != 500-lost || uint64(len(lines)) != s.Records {
		t.Fatalf("lost %d, stats %+v, %d lines", lost, s, len(lines))
	}
	if len(gaps) != 1 || gaps[0] != (Gap{Evicted, 1, lost}) {
		t.Fatalf("gaps %v", gaps)
	}
	mustClose(t, q)
	if _, rep := mustOpen(t, dir, o); !rep.Clean() || rep.Records != s.Records {
		t.Fatalf("what was announced is reported again: %+v", rep)
	}
}
