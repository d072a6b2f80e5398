package spool

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

// FuzzScanner: whatever a segment holds, the scanner ends, covers every byte once, and returns only what was encoded.
func FuzzScanner(f *testing.F) {
	const salt = 0xfeed
	var good []byte
	for seq := range uint64(5) {
		good = appendRecord(good, salt, seq+1, bytes.Repeat([]byte{'f'}, int(seq)*9))
	}
	f.Add(good)
	f.Add(good[:len(good)-3])
	f.Add(append([]byte("junk"), good...))
	f.Add(append(append([]byte{}, good...), good...))
	f.Fuzz(func(t *testing.T, b []byte) {
		sc := &scanner{src: bytes.NewReader(b), salt: salt, end: int64(len(b)), before: maxSeq}
		var at int64
		var seq uint64
		for {
			it, err := sc.next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil || it.off != at || it.size <= 0 {
				t.Fatalf("at %d: %+v %v", at, it, err)
			}
			at += it.size
			if !it.ok {
				continue
			}
			if it.seq <= seq || !bytes.Equal(appendRecord(nil, salt, it.seq, it.line), b[it.off:at]) {
				t.Fatalf("not a record: %+v", it)
			}
			seq = it.seq
		}
		if at != int64(len(b)) {
			t.Fatalf("covered %d of %d bytes", at, len(b))
		}
	})
}

// FuzzRecovery: two segments and a cursor of any content open, can be read to the end and written to, and open again with
// nothing new to complain of but what stays damaged.
func FuzzRecovery(f *testing.F) {
	o := damageOptions()
	o.MaxBytes = 1 << 30
	s := makeSample(f, 8, o)
	one, two, cur := s.files[s.names[0]], s.files[s.names[1]], s.files[cursorName]
	f.Add(one, two, cur)
	f.Add(one[:17], two, cur[:100])
	f.Add(one, two[:len(two)-1], []byte{})
	f.Fuzz(func(t *testing.T, one, two, cur []byte) {
		o := o
		o.fs = newMemFS(map[string][]byte{s.names[0]: one, s.names[1]: two, cursorName: cur})
		q, rep := mustOpen(t, "mem", o)
		lines, _ := drain(t, q, 0)
		if uint64(len(lines)) != rep.Records || q.Stats().Records != rep.Records {
			t.Fatalf("%d lines, %+v, %+v", len(lines), rep, q.Stats())
		}
		mustAppend(t, q, 2)
		mustClose(t, q)
		_, again := mustOpen(t, "mem", o)
		if again.Records != rep.Records+2 || again.Next != rep.Next+2 || again.CutBytes != 0 {
			t.Fatalf("first %+v, then %+v", rep, again)
		}
	})
}

// FuzzRecords: records with right checksums and any numbers, in any order, in two segments.
func FuzzRecords(f *testing.F) {
	f.Add([]byte{1, 2, 3, 4}, []byte{5, 6, 7}, uint8(0), uint8(0))
	f.Add([]byte{1, 2, 5, 6}, []byte{5, 3, 9}, uint8(2), uint8(8))
	f.Fuzz(func(t *testing.T, one, two []byte, acked, pinned uint8) {
		o := damageOptions()
		o.MaxBytes = 1 << 30
		a, b := newSegment(1, 1, 7), newSegment(2, 5, 8)
		mem := newMemFS(map[string][]byte{a.name: encode(one, 7), b.name: encode(two, 8), cursorName: nil})
		c, _, err := loadCursor(mem.files[cursorName])
		if err != nil || c.save(marks{acked: uint64(acked), pinned: uint64(pinned)}) != nil {
			t.Fatal(err)
		}
		o.fs = mem
		q, rep := mustOpen(t, "mem", o)
		lines, _ := drain(t, q, 0)
		if uint64(len(lines)) != rep.Records || q.Stats().Records != rep.Records || rep.Next <= uint64(max(acked, pinned)) {
			t.Fatalf("%d lines, %+v, %+v", len(lines), rep, q.Stats())
		}
		for seq, l := range lines {
			if l != lineOf(seq) || seq <= uint64(acked) || seq >= rep.Next {
				t.Fatalf("line %d is %q; %+v", seq, l, rep)
			}
		}
		if rep.Records+rep.Missing != rep.Next-1-min(uint64(acked), rep.Next-1) {
			t.Fatalf("records and missing do not add up: %+v", rep)
		}
		mustAppend(t, q, 1)
		mustClose(t, q)
		if _, again := mustOpen(t, "mem", o); again.Records != rep.Records+1 || again.Next != rep.Next+1 || again.Missing != rep.Missing {
			t.Fatalf("first %+v, then %+v", rep, again)
		}
	})
}

func encode(seqs []byte, salt uint32) []byte {
	var b []byte
	for _, s := range seqs {
		b = appendRecord(b, salt, uint64(s), []byte(lineOf(uint64(s))))
	}
	return b
}
