package spool

import (
	"errors"
	"strings"
	"syscall"
	"testing"
)

func badQueue(t *testing.T, change func(*Options)) (*Queue, *badDisk, string, Options) {
	t.Helper()
	d := &badDisk{room: -1}
	o := small()
	o.fs = d
	if change != nil {
		change(&o)
	}
	dir := t.TempDir()
	q, _ := mustOpen(t, dir, o)
	return q, d, dir, o
}

// The disk fills up at every possible byte of a record.
func TestDiskFull(t *testing.T) {
	for _, failTruncate := range []bool{false, true} {
		for room := int64(0); room < 60; room++ {
			q, d, dir, o := badQueue(t, nil)
			mustAppend(t, q, 3)
			d.set(func(d *badDisk) { d.room, d.failTruncate = room, failTruncate })
			for range 2 {
				seq, err := q.Append([]byte(strings.Repeat("long", 20)))
				if !errors.Is(err, ErrNoSpace) || seq != 0 {
					t.Fatalf("seq %d, %v", seq, err)
				}
			}
			if lines, gaps := drain(t, q, 0); len(lines) != 3 || len(gaps) != 0 {
				t.Fatalf("while full: %v %v", lines, gaps)
			}
			if s := q.Stats(); s.Records != 3 || s.Last != 3 {
				t.Fatalf("%+v", s)
			}
			d.set(func(d *badDisk) { d.room, d.failTruncate = -1, false })
			mustAppend(t, q, 3)
			mustClose(t, q)
			q, rep := mustOpen(t, dir, o)
			lines, gaps := drain(t, q, 0)
			if len(lines) != 6 || lines[4] != lineOf(4) || len(gaps) != 0 || rep.Missing != 0 || rep.Next != 7 {
				t.Fatalf("room %d: %v %v %+v", room, lines, gaps, rep)
			}
			mustClose(t, q)
			if d.open != 0 {
				t.Fatalf("%d files left open", d.open)
			}
		}
	}
}

func TestNoNewSegmentCanBeMade(t *testing.T) {
	q, d, dir, o := badQueue(t, func(o *Options) { o.MaxBytes = 2048 })
	mustAppend(t, q, 1)
	d.set(func(d *badDisk) { d.failCreate = true })
	n := 0
	for ; n < 200; n++ {
		if _, err := q.Append([]byte("a line that makes the one segment grow")); err != nil {
			if !errors.Is(err, ErrIO) || !errors.Is(err, syscall.EMFILE) {
				t.Fatal(err)
			}
			break
		}
	}
	if got := diskBytes(t, dir); got <= o.SegmentBytes || got > o.MaxBytes {
		t.Fatalf("stopped at %d bytes after %d lines", got, n)
	}
	d.set(func(d *badDisk) { d.failCreate = false })
	mustAppend(t, q, 1)
	if lines, _ := drain(t, q, uint64(n)); len(lines) != 1+1 && len(lines) != 1 {
		t.Fatalf("%d lines", len(lines))
	}
	if got := diskBytes(t, dir); got > o.MaxBytes {
		t.Fatalf("%d bytes", got)
	}
}

func TestFlushFails(t *testing.T) {
	q, d, _, _ := badQueue(t, func(o *Options) { o.Sync = SyncEach() })
	mustAppend(t, q, 2)
	d.set(func(d *badDisk) { d.failSync = true })
	seq, err := q.Append([]byte(lineOf(3)))
	if seq != 3 || !errors.Is(err, ErrNotSynced) || !errors.Is(err, errBad) {
		t.Fatalf("%d %v", seq, err)
	}
	d.set(func(d *badDisk) { d.failSync = false })
	mustAppend(t, q, 2)
	lines, gaps := drain(t, q, 0)
	if len(lines) != 5 || len(gaps) != 0 {
		t.Fatalf("%v %v", lines, gaps)
	}
	if s := q.Stats(); s.SyncErrors != 1 || s.Segments != 2 || s.Dropped != (Dropped{}) {
		t.Fatalf("%+v", s)
	}
}

func TestReadFails(t *testing.T) {
	var losses []Loss
	q, d, _, _ := badQueue(t, func(o *Options) { o.OnLoss = func(l Loss) { losses = append(losses, l) } })
	mustAppend(t, q, 60)
	d.set(func(d *badDisk) { d.failRead = true })
	for range maxFailures - 1 {
		if _, err := q.Read(0, 0, 0); !errors.Is(err, ErrIO) || !errors.Is(err, errBad) {
			t.Fatal(err)
		}
	}
	d.set(func(d *badDisk) { d.failRead = false })
	if b, err := q.Read(0, 0, 0); err != nil || b.First != 1 {
		t.Fatalf("the disk is well again: %+v %v", b, err)
	}
	d.set(func(d *badDisk) { d.failRead = true })
	for range maxFailures {
		_, _ = q.Read(0, 0, 0)
	}
	d.set(func(d *badDisk) { d.failRead = false })
	b, err := q.Read(0, 0, 0)
	if err != nil || b.First == 1 || len(losses) != 1 || losses[0].Last != b.First-1 {
		t.Fatalf("%+v %v %v", b.First, err, losses)
	}
}

func TestOpenOnADiskThatCannotRead(t *testing.T) {
	q, d, dir, o := badQueue(t, nil)
	mustAppend(t, q, 60)
	mustClose(t, q)
	d.set(func(d *badDisk) { d.failRead = true })
	q, rep := mustOpen(t, dir, o)
	if rep.Clean() || rep.Records != 0 || rep.Damaged[0].Err == nil {
		t.Fatalf("%+v", rep)
	}
	d.set(func(d *badDisk) { d.failRead = false })
	mustAppend(t, q, 1)
	if lines, _ := drain(t, q, 0); len(lines) != 1 {
		t.Fatalf("%v", lines)
	}
}

func TestFilesThatCannotBeDeleted(t *testing.T) {
	q, d, dir, _ := badQueue(t, nil)
	mustAppend(t, q, 100)
	d.set(func(d *badDisk) { d.failRemove = true })
	if err := q.Ack(90); err != nil {
		t.Fatal(err)
	}
	before := len(segmentFiles(t, dir))
	d.set(func(d *badDisk) { d.failRemove = false })
	mustAppend(t, q, 100)
	if err := q.Ack(200); err != nil {
		t.Fatal(err)
	}
	if n := len(segmentFiles(t, dir)); before < 3 || n != 1 {
		t.Fatalf("%d files before, %d after", before, n)
	}
}
