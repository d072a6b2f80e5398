package spool

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// sample is a closed queue of several segments.
type sample struct {
	files   map[string][]byte
	names   []string // segments in order
	records []sampleRecord
}

type sampleRecord struct {
	seq      uint64
	name     string
	from, to int64
}

func makeSample(t testing.TB, lines int, o Options) sample {
	t.Helper()
	dir := t.TempDir()
	q, _ := mustOpen(t, dir, o)
	s := sample{files: map[string][]byte{}}
	for range lines {
		mustAppend(t, q, 1)
		seg := q.w.seg
		s.records = append(s.records, sampleRecord{q.last, seg.name, seg.end - headerSize - int64(len(lineOf(q.last))), seg.end})
	}
	mustClose(t, q)
	for _, n := range append(segmentFiles(t, dir), filepath.Join(dir, cursorName)) {
		b, err := os.ReadFile(n)
		if err != nil {
			t.Fatal(err)
		}
		s.files[filepath.Base(n)] = b
		if filepath.Ext(n) == segmentSuffix {
			s.names = append(s.names, filepath.Base(n))
		}
	}
	return s
}

// put writes the sample with one file changed.
func (s sample) put(t testing.TB, dir, name string, content []byte) {
	t.Helper()
	for _, old := range segmentFiles(t, dir) {
		if err := os.Remove(old); err != nil {
			t.Fatal(err)
		}
	}
	for n, b := range s.files {
		if n == name {
			b = content
		}
		if err := os.WriteFile(filepath.Join(dir, n), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// checkKept opens dir and wants all records but the gone ones, each of these reported, and a queue that works.
func (s sample) checkKept(t *testing.T, dir string, gone func(sampleRecord) bool, o Options) {
	t.Helper()
	q, rep, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	lines, gaps := drain(t, q, 0)
	var missing, want uint64
	for _, r := range s.records {
		switch text, ok := lines[r.seq]; {
		case gone(r):
			missing++
			if ok {
				t.Fatalf("record %d should be gone", r.seq)
			}
		case !ok || text != lineOf(r.seq):
			t.Fatalf("record %d is %q; gaps %v, report %+v", r.seq, text, gaps, rep)
		default:
			want++
		}
	}
	if rep.Records != want || q.Stats().Records != want || uint64(len(lines)) != want {
		t.Fatalf("%d lines, want %d: %+v, %+v", len(lines), want, rep, q.Stats())
	}
	if missing > 0 && rep.Clean() {
		t.Fatalf("%d records went in silence: %+v", missing, rep)
	}
	if inside := rep.Next - 1 - want; rep.Missing != inside {
		t.Fatalf("missing %d, want %d: %+v", rep.Missing, inside, rep)
	}
	mustAppend(t, q, 1)
	if after, _ := drain(t, q, rep.Next-1); after[rep.Next] != lineOf(rep.Next) {
		t.Fatalf("appended after recovery, read %v", after)
	}
}

func damageOptions() Options {
	o := small()
	o.SegmentBytes, o.MaxRecord = 256, 100
	return o
}

func TestFlipEveryByte(t *testing.T) {
	o := damageOptions()
	s := makeSample(t, 20, o)
	dir := t.TempDir()
	for _, name := range s.names {
		for at := range int64(len(s.files[name])) {
			b := append([]byte(nil), s.files[name]...)
			b[at] ^= byte(1 + at%255)
			s.put(t, dir, name, b)
			s.checkKept(t, dir, func(r sampleRecord) bool { return r.name == name && r.from <= at && at < r.to }, o)
		}
	}
}

func TestTruncateAtEveryOffset(t *testing.T) {
	o := damageOptions()
	s := makeSample(t, 20, o)
	dir := t.TempDir()
	last := s.names[len(s.names)-1]
	for _, name := range s.names {
		for n := range int64(len(s.files[name])) {
			s.put(t, dir, name, s.files[name][:n])
			if name == last && atBoundary(s, name, n) {
				continue // a log that ends sooner: there is nothing to report
			}
			s.checkKept(t, dir, func(r sampleRecord) bool { return r.name == name && r.to > n }, o)
		}
	}
}

func atBoundary(s sample, name string, n int64) bool {
	for _, r := range s.records {
		if r.name == name && (r.from == n || r.to == n) {
			return true
		}
	}
	return false
}

func TestFlipTheCursor(t *testing.T) {
	dir := t.TempDir()
	q, _ := mustOpen(t, dir, damageOptions())
	mustAppend(t, q, 4)
	for _, seq := range []uint64{1, 2, 3} {
		if err := errors.Join(q.Pin(seq), q.Ack(seq)); err != nil {
			t.Fatal(err)
		}
	}
	epoch := q.Stats().Epoch
	mustClose(t, q)
	name := filepath.Join(dir, cursorName)
	good, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for at := range good {
		b := append([]byte(nil), good...)
		b[at] ^= 0x40
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		q, rep := mustOpen(t, dir, damageOptions())
		inSlot := at%slotStride < slotSize
		if rep.Acked != 2 && rep.Acked != 3 || rep.CursorLost != inSlot || rep.Next != 5 || (q.Stats().Epoch == epoch) == inSlot {
			t.Fatalf("byte %d: %+v", at, rep)
		}
		mustClose(t, q)
	}
	if err := os.WriteFile(name, []byte("rubbish that is long enough to be a slot of a cursor"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, rep := mustOpen(t, dir, damageOptions()); !rep.CursorLost || rep.Records != 4 || rep.Next != 5 {
		t.Fatalf("lost cursor: %+v", rep)
	}
}

func TestLostSegmentIsReported(t *testing.T) {
	o := damageOptions()
	s := makeSample(t, 20, o)
	for i, name := range s.names[:len(s.names)-1] {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			dir := t.TempDir()
			s.put(t, dir, "", nil)
			if err := os.Remove(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
			s.checkKept(t, dir, func(r sampleRecord) bool { return r.name == name }, o)
		})
	}
}

func TestNumbersThatWereSeenAreNotGivenOutAgain(t *testing.T) {
	o := damageOptions()
	dir := t.TempDir()
	q, _ := mustOpen(t, dir, o)
	mustAppend(t, q, 4)
	if err := q.Pin(4); err != nil {
		t.Fatal(err)
	}
	mustClose(t, q)
	if err := os.Truncate(segmentFiles(t, dir)[0], 50); err != nil { // a power cut took three and a bit
		t.Fatal(err)
	}
	q, rep := mustOpen(t, dir, o)
	if rep.Next != 5 || rep.Missing != 3 || rep.CutBytes == 0 {
		t.Fatalf("%+v", rep)
	}
	mustAppend(t, q, 1)
	lines, gaps := drain(t, q, 0)
	if len(lines) != 2 || len(gaps) != 1 || gaps[0] != (Gap{Damaged, 2, 4}) {
		t.Fatalf("%v %v", lines, gaps)
	}
	mustClose(t, q)
	if _, rep = mustOpen(t, dir, o); rep.Next != 6 || rep.Records != 2 || rep.Missing != 3 {
		t.Fatalf("second open: %+v", rep)
	}
}

func TestALineIsNeverTakenForARecord(t *testing.T) {
	o := Options{Sync: SyncNever()}
	dir := t.TempDir()
	q, _ := mustOpen(t, dir, o)
	var fake []byte
	for salt := range uint32(4) { // an attacker who writes lines does not know the salt
		fake = appendRecord(fake, salt, 9, []byte("forged"))
	}
	for _, l := range [][]byte{[]byte("one"), fake, []byte("three")} {
		if _, err := q.Append(l); err != nil {
			t.Fatal(err)
		}
	}
	mustClose(t, q)
	name := segmentFiles(t, dir)[0]
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	b[23+5] ^= 1 // the length of the second
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	q, rep := mustOpen(t, dir, o)
	lines, _ := drain(t, q, 0)
	if len(lines) != 2 || lines[3] != "three" || rep.Missing != 1 || rep.Damages != 1 {
		t.Fatalf("%v %+v", lines, rep)
	}
}

func TestDamageWhileOpen(t *testing.T) {
	o := damageOptions()
	dir := t.TempDir()
	var losses []Loss
	o.OnLoss = func(l Loss) { losses = append(losses, l) }
	q, _ := mustOpen(t, dir, o)
	mustAppend(t, q, 20)
	f, err := os.OpenFile(segmentFiles(t, dir)[1], os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("XXXX"), 30); err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	for range 2 { // announced once, though read twice
		lines, gaps := drain(t, q, 0)
		if len(lines) != 19 || len(gaps) != 1 || len(losses) != 1 {
			t.Fatalf("%d lines, gaps %v, losses %v", len(lines), gaps, losses)
		}
		if s := q.Stats(); s.Records != 19 || s.Dropped.Damaged != 1 {
			t.Fatalf("%+v", s)
		}
	}
}
