package spool

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A number that was pinned is never given to another line, however often the queue is opened, pinned anew and cut short.
func TestTrial02NumbersAfterALostTail(t *testing.T) {
	o := damageOptions()
	o.Sync = SyncPolicy{}
	dir := t.TempDir()
	q, _ := mustOpen(t, dir, o)
	mustAppend(t, q, 4)
	if err := q.Pin(4); err != nil {
		t.Fatal(err)
	}
	mustClose(t, q)
	if err := os.Truncate(segmentFiles(t, dir)[0], 2*(headerSize+int64(len(lineOf(1))))); err != nil {
		t.Fatal(err)
	}
	for range 3 { // each opening sends what is left of the batch, and no line comes
		q, rep := mustOpen(t, dir, o)
		if rep.Next != 5 {
			t.Fatalf("%+v", rep)
		}
		b, err := q.Read(0, 0, 0)
		if err != nil || b.Last != 2 || q.Pin(b.Last) != nil {
			t.Fatalf("%+v %v", b, err)
		}
		mustClose(t, q)
	}
	q, _ = mustOpen(t, dir, o)
	if err := q.Ack(2); err != nil {
		t.Fatal(err)
	}
	mustClose(t, q)
	q, _ = mustOpen(t, dir, o)
	mustAppend(t, q, 1)
	if got := q.Stats().Last; got != 5 {
		t.Fatalf("the next line got number %d", got)
	}
}

// A pin that an earlier process wrote and did not live to flush is flushed before the batch goes out again.
func TestTrial02PinIsFlushedAfterAKill(t *testing.T) {
	d := newDisk(1)
	d.harmful = true
	o := onDisk(d, SyncInterval(hour))
	q, _ := mustOpen(t, diskDir, o)
	mustAppend(t, q, 3)
	d.after = func(call, name string) bool { return call == "write" && name == cursorName }
	if err := q.Pin(3); err == nil {
		t.Fatal("the process died before the flush")
	}
	_ = q.Close()
	d.restart()
	q, _ = mustOpen(t, diskDir, o)
	if err := q.Pin(3); err != nil {
		t.Fatal(err)
	}
	epoch := q.Stats().Epoch
	d.cut()
	_ = q.Close()
	d.restart()
	q, rep := mustOpen(t, diskDir, o)
	if rep.Next != 4 || rep.Pinned != 3 || q.Stats().Epoch != epoch {
		t.Fatalf("%+v", rep)
	}
}

func TestTrial05EvictedPinIsNone(t *testing.T) {
	o := small()
	o.MaxBytes = 2048
	dir := t.TempDir()
	q, _ := mustOpen(t, dir, o)
	mustAppend(t, q, 3)
	if err := q.Pin(3); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, q, 100)
	for range 2 {
		if s := q.Stats(); s.Pinned != 0 || s.Dropped.Evicted == 0 && s.Appended > 0 {
			t.Fatalf("%+v", s)
		}
		mustClose(t, q)
		var rep Recovery
		if q, rep = mustOpen(t, dir, o); rep.Pinned != 0 {
			t.Fatalf("%+v", rep)
		}
	}
}

// What was appended under SyncEach is on the disk with its name, and with the names of the directories above, though the
// process that made them was killed before it flushed them.
func TestTrial11NamesAfterReopening(t *testing.T) {
	for _, first := range []SyncPolicy{SyncInterval(hour), SyncNever()} {
		d := newDisk(2)
		d.harmful = true
		o := onDisk(d, first)
		q, _ := mustOpen(t, diskDir, o)
		mustAppend(t, q, 1)
		d.kill()
		_ = q.Close()
		d.restart()
		o.Sync = SyncEach()
		q, _ = mustOpen(t, diskDir, o)
		mustAppend(t, q, 1)
		d.cut()
		_ = q.Close()
		d.restart()
		q, rep := mustOpen(t, diskDir, o)
		if lines, _ := drain(t, q, 0); len(lines) != 2 || !rep.Clean() {
			t.Fatalf("%v %+v", lines, rep)
		}
	}
}

// Lines that were delivered are not reported as damaged after a power cut that follows when their segments were deleted: by
// Ack, or by the next process, because one was killed before it flushed what is acknowledged.
func TestTrial11DeliveredLinesAreNotDamaged(t *testing.T) {
	policies := map[string]SyncPolicy{"interval": SyncInterval(hour), "never": SyncNever(), "each": SyncEach()}
	for name, p := range policies {
		for _, killed := range []bool{false, true} {
			d := newDisk(3)
			d.harmful = true
			o := onDisk(d, SyncEach())
			q, _ := mustOpen(t, diskDir, o)
			mustAppend(t, q, 100) // of several segments, all flushed
			mustClose(t, q)
			d.flushDirs()
			o.Sync = p
			q, _ = mustOpen(t, diskDir, o)
			if killed {
				d.after = func(call, name string) bool { return call == "write" && name == cursorName }
			}
			if err := q.Ack(90); (err == nil) == killed && name == "each" {
				t.Fatalf("Ack returned %v", err)
			}
			if killed {
				_ = q.Close()
				d.restart()
				q, _ = mustOpen(t, diskDir, o) // deletes what is acknowledged
			}
			d.cut()
			_ = q.Close()
			d.restart()
			_, rep := mustOpen(t, diskDir, o)
			if rep.Missing != 0 || rep.Damages != 0 || rep.Acked != 90 {
				t.Fatalf("%s, killed %t: %+v", name, killed, rep)
			}
		}
	}
}

// Sync reports lines that an earlier flush failed on, also when later ones were flushed, until they are acknowledged.
func TestTrial11SyncReportsUnflushedLines(t *testing.T) {
	q, d, _, _ := badQueue(t, func(o *Options) { o.Sync = SyncInterval(hour) })
	mustAppend(t, q, 2)
	d.set(func(d *badDisk) { d.failSync = true })
	if err := q.Sync(); !errors.Is(err, ErrNotSynced) {
		t.Fatal(err)
	}
	d.set(func(d *badDisk) { d.failSync = false })
	mustAppend(t, q, 2)
	for range 2 {
		if err := q.Sync(); !errors.Is(err, ErrNotSynced) {
			t.Fatalf("lines 1 and 2 are not flushed, and Sync returned %v", err)
		}
	}
	if err := errors.Join(q.Ack(2), q.Sync()); err != nil {
		t.Fatal(err)
	}
}

// Under SyncNever, Sync flushes every segment, not only the newest.
func TestTrial11SyncFlushesAllSegments(t *testing.T) {
	d := newDisk(4)
	d.harmful = true
	q, _ := mustOpen(t, diskDir, onDisk(d, SyncNever()))
	mustAppend(t, q, 100)
	if err := q.Sync(); err != nil {
		t.Fatal(err)
	}
	d.cut()
	_ = q.Close()
	d.restart()
	q, rep := mustOpen(t, diskDir, onDisk(d, SyncNever()))
	if lines, _ := drain(t, q, 0); len(lines) != 100 || !rep.Clean() {
		t.Fatalf("%d lines, %+v", len(lines), rep)
	}
}

// A tail that could not be flushed at Open is not reported as flushed.
func TestTrial11TailThatOpenCouldNotFlush(t *testing.T) {
	q, d, dir, o := badQueue(t, func(o *Options) { o.Sync = SyncInterval(hour) })
	mustAppend(t, q, 2)
	mustClose(t, q)
	d.set(func(d *badDisk) { d.failSync = true })
	q, _ = mustOpen(t, dir, o)
	d.set(func(d *badDisk) { d.failSync = false })
	if err := q.Sync(); !errors.Is(err, ErrNotSynced) {
		t.Fatal(err)
	}
	if err := errors.Join(q.Ack(2), q.Sync()); err != nil {
		t.Fatal(err)
	}
}

// Flushed names reach up to the directories that the program made.
func TestTrial11ParentsAreFlushed(t *testing.T) {
	d := &namesDisk{}
	o := small()
	o.fs, o.Sync, o.Parents = d, SyncInterval(hour), 3
	top := t.TempDir()
	dir := filepath.Join(top, "root", "instance", "queue")
	q, _ := mustOpen(t, dir, o)
	mustAppend(t, q, 1)
	if err := q.Sync(); err != nil {
		t.Fatal(err)
	}
	want := []string{dir, filepath.Dir(dir), filepath.Join(top, "root"), top}
	if !slices.Equal(d.synced, want) {
		t.Fatalf("flushed %s, want %s", strings.Join(d.synced, " "), strings.Join(want, " "))
	}
	mustClose(t, q)
}

// namesDisk notes the directories that are flushed.
type namesDisk struct {
	osFS
	synced []string
}

func (d *namesDisk) SyncDir(dir string) error {
	d.synced = append(d.synced, dir)
	return d.osFS.SyncDir(dir)
}

// A record that was cut off and came back after a power cut, with newer ones written across it, hides none of them.
func TestTrial11ReturnedRecordHidesNoneThatAreNewer(t *testing.T) {
	s := newSegment(1, 1, 7)
	b := appendRecord(nil, s.salt, 1, []byte(lineOf(1)))
	b = append(b, appendRecord(nil, s.salt, 2, []byte(strings.Repeat("old", 60)))[:60]...)
	for seq := range uint64(3) {
		b = appendRecord(b, s.salt, 3+seq, []byte(lineOf(3+seq)+strings.Repeat(".", 50)))
	}
	o := small()
	o.fs = newMemFS(map[string][]byte{s.name: b, cursorName: nil})
	q, rep := mustOpen(t, "mem", o)
	mustAppend(t, q, 40) // what follows makes nothing else of it
	lines, gaps := drain(t, q, 0)
	if rep.Records != 4 || rep.Missing != 1 || len(lines) != 44 || len(gaps) != 1 || gaps[0] != (Gap{Damaged, 2, 2}) {
		t.Fatalf("%d lines, gaps %v, %+v", len(lines), gaps, rep)
	}
}

// Lines that were evicted and announced are not read from a file that a power cut brought back.
func TestTrial11EvictedLinesStayLost(t *testing.T) {
	s := newSegment(1, 1, 7)
	mem := newMemFS(map[string][]byte{s.name: encode([]byte{1, 2, 3, 4}, 7), cursorName: nil})
	c, _, err := loadCursor(mem.files[cursorName])
	if err != nil || c.save(marks{evicted: 2}) != nil {
		t.Fatal(err)
	}
	o := small()
	o.fs = mem
	q, rep := mustOpen(t, "mem", o)
	b, err := q.Read(0, 0, 0)
	if err != nil || b.First != 3 || b.Last != 4 || rep.Records != 2 || len(b.Gaps) != 1 || b.Gaps[0] != (Gap{Evicted, 1, 2}) {
		t.Fatalf("%+v %+v %v", b, rep, err)
	}
}
