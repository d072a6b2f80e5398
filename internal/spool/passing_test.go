package spool

import (
	"errors"
	"os"
	"testing"
)

// A host that is out of descriptors is no damaged disk: nothing may be given up for it.
func TestOutOfDescriptorsIsNoDamage(t *testing.T) {
	var losses []Loss
	q, d, dir, o := badQueue(t, func(o *Options) { o.OnLoss = func(l Loss) { losses = append(losses, l) } })
	mustAppend(t, q, 60)
	d.set(func(d *badDisk) { d.failOpen = errShort })
	for range 3 * maxFailures {
		if _, err := q.Read(0, 0, 0); !errors.Is(err, ErrIO) || !errors.Is(err, errShort) {
			t.Fatal(err)
		}
	}
	d.set(func(d *badDisk) { d.failOpen = nil })
	if lines, gaps := drain(t, q, 0); len(lines) != 60 || len(gaps)+len(losses) != 0 {
		t.Fatalf("while open: %d lines, gaps %v, losses %v", len(lines), gaps, losses)
	}
	mustClose(t, q)
	d.set(func(d *badDisk) { d.failOpen = errShort })
	if _, _, err := Open(dir, o); !errors.Is(err, errShort) {
		t.Fatalf("opened though no segment can be looked at: %v", err)
	}
	d.set(func(d *badDisk) { d.failOpen = nil })
	q, rep := mustOpen(t, dir, o)
	mustAppend(t, q, 1)
	if lines, gaps := drain(t, q, 0); len(lines) != 61 || len(gaps) != 0 || !rep.Clean() {
		t.Fatalf("opened again: %d lines, gaps %v, %+v", len(lines), gaps, rep)
	}
	mustClose(t, q)
	if d.open != 0 {
		t.Fatalf("%d files left open", d.open)
	}
}

// What the disk would not read may be readable again: it stays, and its numbers stay its own.
func TestUnreadableEndIsKept(t *testing.T) {
	for name, fail := range map[string]func(*badDisk){
		"open": func(d *badDisk) { d.failOpen = errBad },
		"read": func(d *badDisk) { d.failRead = true },
	} {
		t.Run(name, func(t *testing.T) {
			q, d, dir, o := badQueue(t, nil)
			mustAppend(t, q, 3)
			mustClose(t, q)
			d.set(fail)
			q, rep := mustOpen(t, dir, o)
			d.set(func(d *badDisk) { d.failOpen, d.failRead = nil, false })
			seq, err := q.Append([]byte("another line"))
			if err != nil || seq <= 3 || rep.Missing < 3 || rep.Damaged[0].Err == nil {
				t.Fatalf("seq %d, %v, %+v", seq, err, rep)
			}
			mustClose(t, q)
			q, rep = mustOpen(t, dir, o)
			lines, _ := drain(t, q, 0)
			if len(lines) != 4 || lines[3] != lineOf(3) || lines[seq] != "another line" {
				t.Fatalf("%v %+v", lines, rep)
			}
			mustClose(t, q)
		})
	}
}

// Somebody deletes the files of a running queue to free the disk: what is left is read, and Read comes to an end.
func TestFilesDeletedUnderAnOpenQueue(t *testing.T) {
	q, _, dir, _ := badQueue(t, nil)
	mustAppend(t, q, 100)
	names := segmentFiles(t, dir)
	if len(names) < 4 {
		t.Fatalf("%d segments", len(names))
	}
	for _, n := range names[:len(names)-1] {
		if err := os.Remove(n); err != nil {
			t.Fatal(err)
		}
	}
	var b Batch
	for tries := 0; b.Last == 0; tries++ {
		var err error
		if b, err = q.Read(0, 0, 0); err != nil && (!errors.Is(err, ErrIO) || tries > maxFailures*len(names)) {
			t.Fatal(err)
		}
	}
	if b.Last != 100 || len(b.Gaps) != 1 || b.Gaps[0] != (Gap{Damaged, 1, b.First - 1}) {
		t.Fatalf("%d to %d, gaps %v", b.First, b.Last, b.Gaps)
	}
}

// A newest segment that cannot be read must not keep what comes after it from being read.
func TestUnreadableNewestSegmentIsLeft(t *testing.T) {
	q, d, _, _ := badQueue(t, func(o *Options) { o.SegmentBytes = 1 << 16 })
	mustAppend(t, q, 3)
	d.set(func(d *badDisk) { d.failRead = true })
	for range maxFailures {
		if _, err := q.Read(0, 0, 0); !errors.Is(err, ErrIO) {
			t.Fatal(err)
		}
	}
	d.set(func(d *badDisk) { d.failCreate = true })
	mustAppend(t, q, 1) // in the same segment, for want of another
	d.set(func(d *badDisk) { d.failCreate = false })
	mustAppend(t, q, 1)
	if _, err := q.Read(0, 0, 0); !errors.Is(err, ErrIO) {
		t.Fatal(err) // the new one fails as well, but the old one is given up
	}
	d.set(func(d *badDisk) { d.failRead = false })
	lines, gaps := drain(t, q, 0)
	if len(lines) != 1 || lines[5] != lineOf(5) || len(gaps) != 1 || gaps[0] != (Gap{Damaged, 1, 4}) {
		t.Fatalf("%v %v", lines, gaps)
	}
}
