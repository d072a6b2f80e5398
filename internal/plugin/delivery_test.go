package plugin

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/stats"
)

var errRefused = errors.New("status 500")

// refuses reports whether one of the batch's lines is among the bad ones.
func refuses(b extension.Batch, bad ...string) bool {
	return slices.ContainsFunc(b.Lines, func(l []byte) bool { return slices.Contains(bad, string(l)) })
}

// One line that the server refuses by a plain error must cost that line alone, soon, and
// hold up nothing for long.
func TestTrial03PoisonLineDoesNotBlockTheQueue(t *testing.T) {
	bubble(t, func(t *testing.T) {
		dir, s := t.TempDir(), &sink{}
		s.set(func(b extension.Batch) error {
			if refuses(b, "poison") {
				return errRefused
			}
			return nil
		})
		r := newRig(t, dir, logsTo(s), withLogBatch(100, 1<<20, 0))
		r.start()
		var want []string
		for i := range 1000 {
			line := fmt.Sprintf(`{"n":%d}`, i)
			if i == 333 {
				r.log("string", "poison")
				continue
			}
			want = append(want, line)
			r.log("string", line)
		}
		pass(time.Hour)
		synctest.Wait()
		sameSet(t, s.lines(), want)
		lost := eventsOf[stats.LogsDropped](r)
		equal(t, "announcements", len(lost), 1)
		equal(t, "lines announced", lost[0].Lines, 1)
		equal(t, "lines counted", droppedBy(r), 1)
		equal(t, "waiting", r.Pending()["results"], 0)
		r.shut()
		dead, err := os.ReadFile(filepath.Join(dir, "queue", "results.dead"))
		if err != nil || !bytes.Contains(dead, []byte("\npoison\n")) || bytes.Count(dead, []byte("\n")) != 2 {
			t.Errorf("dead letters: %q, %v", dead, err)
		}
	})
}

// Several bad lines, next to each other and as the first and last of batches.
func TestTrial03ManyPoisonLines(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &sink{}
		bad := []string{"bad 0", "bad 99", "bad 100", "bad 101", "bad 555"}
		s.set(func(b extension.Batch) error {
			if refuses(b, bad...) {
				return errRefused
			}
			return nil
		})
		r := newRig(t, t.TempDir(), logsTo(s), withLogBatch(100, 1<<20, 0))
		r.start()
		var want []string
		for i := range 1000 {
			if slices.Contains(bad, fmt.Sprint("bad ", i)) {
				r.log("string", fmt.Sprint("bad ", i))
				continue
			}
			want = append(want, fmt.Sprint("line ", i))
			r.log("string", want[len(want)-1])
		}
		pass(3 * time.Hour)
		synctest.Wait()
		sameSet(t, s.lines(), want)
		equal(t, "lines counted", droppedBy(r), uint64(len(bad)))
		equal(t, "waiting", r.Pending()["results"], 0)
	})
}

// An outage of days, of the server or of this kind of log alone, costs nothing and changes
// no batch: what was sent before keeps its id.
func TestTrial03OutageCostsNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &sink{}
		down := true
		s.set(func(b extension.Batch) error {
			if down && b.Queue == extension.QueueResults {
				return errRefused
			}
			return nil
		})
		r := newRig(t, t.TempDir(), logsTo(s), withLogBatch(10, 1<<20, 0))
		want := r.logLines(1000)
		r.start()
		for range 10 * 24 {
			pass(time.Hour)
			r.log("snapshot", "the server takes these")
		}
		equal(t, "lines given up", droppedBy(r), 0)
		s.mu.Lock()
		down = false
		s.mu.Unlock()
		pass(time.Hour)
		synctest.Wait()
		var got []string
		for _, b := range s.taken {
			if b.Queue == extension.QueueResults {
				got = append(got, linesOf(b)...)
			}
		}
		sameSet(t, got, want)
		for _, b := range s.tries {
			if b.Queue == extension.QueueResults && b.First == 1 && b.Last != 10 {
				t.Errorf("the first batch was cut anew in an outage: %s", b.ID)
			}
		}
		equal(t, "lines given up", droppedBy(r), 0)
	})
}

// What was evicted was announced as lost: it is not sent any more, neither while its batch
// is being retried nor after a restart.
func TestTrial03EvictedIsNotTriedAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		dir, s := t.TempDir(), &sink{}
		s.set(func(extension.Batch) error { return errDown })
		opts := []option{logsTo(s), withQueueLimit(1 << 20), withLogBatch(100, 1<<20, 0)}
		r := newRig(t, dir, opts...)
		r.start()
		fill := func(name string) {
			for i := range 4000 {
				r.log("string", fmt.Sprintf("%s %d %s", name, i, strings.Repeat("x", 1000)))
			}
		}
		fill("first")
		pass(10 * time.Minute)
		fill("second")
		synctest.Wait()
		tried := len(s.ids())
		pass(10 * time.Minute)
		synctest.Wait()
		if len(s.tries) == tried {
			t.Fatal("nothing was tried after the eviction")
		}
		for _, b := range s.tries[tried:] {
			if strings.HasPrefix(string(b.Lines[0]), "first") {
				t.Fatalf("%s was tried after it was evicted", b.ID)
			}
		}
		lost := droppedBy(r)
		r.shut()
		s.set(nil)
		r = newRig(t, dir, opts...)
		if err := r.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		equal(t, "delivered and announced as lost", uint64(len(s.lines()))+lost, 8000)
		for _, b := range s.taken {
			if len(b.Lines) > 100 {
				t.Errorf("%s has %d lines", b.ID, len(b.Lines))
			}
		}
	})
}

// While nothing at all gets through, lines keep their order.
func TestTrial03TotalOutageKeepsTheOrder(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &sink{}
		s.set(func(extension.Batch) error { return errDown })
		r := newRig(t, t.TempDir(), logsTo(s), withLogBatch(10, 1<<20, 0))
		want := r.logLines(1000)
		r.start()
		pass(20 * time.Minute)
		s.set(nil)
		pass(time.Hour)
		synctest.Wait()
		sameLines(t, s.lines(), want)
	})
}

// A refusal for good costs the line that it is about, not the batch.
func TestTrial03PermanentRefusalIsNarrowedDown(t *testing.T) {
	s := &sink{}
	s.set(func(b extension.Batch) error {
		if refuses(b, `{"n":37}`, `{"n":38}`) {
			return extension.ErrPermanent
		}
		return nil
	})
	r := newRig(t, t.TempDir(), logsTo(s), withLogBatch(100, 1<<20, 0))
	want := r.logLines(100)
	if err := r.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	sameLines(t, s.lines(), slices.Delete(want, 37, 39))
	equal(t, "given up", droppedBy(r), 2)
}

// A server that refuses everything for good, by mistake, for a day does not empty the queue.
func TestTrial03RefusingEverythingForGoodIsSlow(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &sink{}
		s.set(func(extension.Batch) error { return extension.ErrPermanent })
		r := newRig(t, t.TempDir(), logsTo(s), withLogBatch(100, 1<<20, 0))
		r.start()
		r.logLines(1000)
		pass(12 * time.Hour)
		synctest.Wait()
		if n := droppedBy(r); n < 10 || n > 300 {
			t.Errorf("%d lines were given up", n)
		}
	})
}

func linesOf(b extension.Batch) (out []string) {
	for _, l := range b.Lines {
		out = append(out, string(l))
	}
	return out
}

// droppedBy sums up what was announced as lost.
func droppedBy(r *rig) uint64 {
	var n uint64
	r.drops.Announce(r.Extension.events)
	for _, e := range eventsOf[stats.LogsDropped](r) {
		n += e.Lines
	}
	return n
}

// sameSet compares without order: a line that shows that the server takes others may come
// before one that is under suspicion.
func sameSet(t *testing.T, got, want []string) {
	t.Helper()
	got, want = slices.Clone(got), slices.Clone(want)
	slices.Sort(got)
	slices.Sort(want)
	sameLines(t, got, want)
}

// A host that is restarted again and again gets over a bad line all the same.
func TestTrial03PoisonIsFoundAcrossRestarts(t *testing.T) {
	bubble(t, func(t *testing.T) {
		dir, s := t.TempDir(), &sink{}
		s.set(func(b extension.Batch) error {
			if refuses(b, "poison") {
				return errRefused
			}
			return nil
		})
		var want []string
		var lost uint64
		for round := range 24 {
			r := newRig(t, dir, logsTo(s), withLogBatch(100, 1<<20, 0))
			if round == 0 {
				r.log("string", "poison")
			}
			for i := range 10 {
				want = append(want, fmt.Sprint("line ", round, " ", i))
				r.log("string", want[len(want)-1])
			}
			r.start()
			pass(5 * time.Minute)
			synctest.Wait()
			r.shut()
			lost += droppedBy(r)
		}
		equal(t, "lines given up", lost, 1)
		got := s.lines()
		slices.Sort(got)
		sameSet(t, slices.Compact(got), want) // at least once: a line that went ahead may come again
		if more := len(s.lines()) - len(want); more > 3 {
			t.Errorf("%d lines came twice", more)
		}
	})
}
