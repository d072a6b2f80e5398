package plugin

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/stats"
)

// smallDisk mounts a file system of 1 MiB. Without the right to, the test is skipped;
// TestPromise08OsquerydIsNeverToldNo shows the same without a disk.
func smallDisk(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := syscall.Mount("osqvisor-test", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("a file system cannot be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fill takes all the room that is left, and returns a function that gives it back.
func fill(t *testing.T, dir string) (free func()) {
	t.Helper()
	path := filepath.Join(dir, "filler")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = f.Write(make([]byte, 512))
	}
	if cerr := f.Close(); cerr != nil || !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("the disk could not be filled: %v, %v", err, cerr)
	}
	return func() {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

// TestPromise08FullDisk: with no room left osqueryd is still answered 0, each line
// is either kept and delivered or counted as lost, and when there is room all is
// well again, over a restart on the full disk as well.
func TestPromise08FullDisk(t *testing.T) {
	disk := smallDisk(t)
	dir := filepath.Join(disk, "i")
	s := &sink{fail: func(extension.Batch) error { return errDown }}
	r := newRig(t, dir, logsTo(s))
	log := func(from, to int) {
		for i := from; i < to; i++ {
			r.log("string", fmt.Sprintf(`{"n":%d,"x":%q}`, i, strings.Repeat("x", 1000))) // fails unless answered 0
		}
	}
	log(0, 50)
	free := fill(t, disk)
	log(50, 150)
	_ = r.Flush(t.Context()) // nobody takes them, and the cursor cannot be written
	before := r.Pending()["results"]
	if before < 50 || before > 60 {
		t.Errorf("%d lines wait, want the 50 from before the disk was full and few more", before)
	}
	r.shut()
	lost := droppedLines(t, r)

	r = newRig(t, dir, logsTo(s))
	log(150, 200)
	free()
	log(200, 250)
	s.set(nil)
	if err := r.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.shut()
	lost += droppedLines(t, r)
	got := s.lines()
	if len(got)+int(lost) != 250 || lost < 100 {
		t.Errorf("%d lines were delivered and %d counted as lost, of 250", len(got), lost)
	}
	wantNumbers(t, got[:50], 0)
	wantNumbers(t, got[len(got)-50:], 200)
}

func droppedLines(t *testing.T, r *rig) (lines uint64) {
	t.Helper()
	for _, e := range eventsOf[stats.LogsDropped](r) {
		equal(t, "reason", e.Reason, "not written to the queue: no space left")
		lines += e.Lines
	}
	return lines
}

func wantNumbers(t *testing.T, lines []string, from int) {
	t.Helper()
	for i, line := range lines {
		if want := fmt.Sprintf(`{"n":%d,`, from+i); !strings.HasPrefix(line, want) {
			t.Fatalf("line %d is %.20s, want %s", i, line, want)
		}
	}
}
