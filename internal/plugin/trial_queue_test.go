package plugin

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/internal/delivery"
	"github.com/osqvisor/osqvisor/internal/spool"
	"github.com/osqvisor/osqvisor/stats"
)

// deliver queues n lines and has m take them.
func deliver(t *testing.T, m *extension.Memory, dir, prefix string, n int, opts ...option) {
	t.Helper()
	r := newRig(t, dir, append([]option{withTransport(m)}, opts...)...)
	for i := range n {
		r.log("string", fmt.Sprintf("%s %d", prefix, i))
	}
	if err := r.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.shut()
}

// Whatever becomes of a queue's files, a batch of new lines has an id that no batch ever had.
func TestTrial01IDsAreUniqueForEver(t *testing.T) {
	harm := map[string]func(dir string) error{
		"directory removed": os.RemoveAll,
		"queue removed":     func(dir string) error { return os.RemoveAll(filepath.Join(dir, "queue")) },
		"cursor removed":    func(dir string) error { return os.Remove(filepath.Join(dir, "queue", "results", "cursor")) },
		"cursor emptied": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "queue", "results", "cursor"), nil, 0o600)
		},
		"cursor overwritten": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "queue", "results", "cursor"), make([]byte, 8192), 0o600)
		},
		"segments removed": func(dir string) error {
			files, err := filepath.Glob(filepath.Join(dir, "queue", "results", "*.spool"))
			for _, f := range files {
				err = errors.Join(err, os.Remove(f))
			}
			return err
		},
	}
	for name, do := range harm {
		t.Run(name, func(t *testing.T) {
			m, dir := extension.NewMemory(), filepath.Join(t.TempDir(), "a")
			var want []string
			for round := range 3 {
				deliver(t, m, dir, fmt.Sprint("round ", round), 5, withLogBatch(5, 1<<20, 0))
				for i := range 5 {
					want = append(want, fmt.Sprintf("round %d %d", round, i))
				}
				if err := do(dir); err != nil {
					t.Fatal(err)
				}
			}
			have := map[string]bool{}
			for _, line := range m.Logs("a", extension.QueueResults) {
				have[line] = true
			}
			for _, line := range want {
				if !have[line] {
					t.Errorf("%q was delivered under an id that the server had already", line)
				}
			}
		})
	}
}

// Two hosts that call an instance by the same name share no id, and an id stays over restarts.
func TestTrial01EpochOfAQueue(t *testing.T) {
	ids, epochs := map[string]bool{}, map[string]bool{}
	for range 2 {
		m, dir := extension.NewMemory(), t.TempDir()
		for range 2 {
			deliver(t, m, dir, "line", 1)
		}
		batches := m.Batches("a")
		equal(t, "batches", len(batches), 2)
		equal(t, "epoch after a restart", batches[1].Epoch, batches[0].Epoch)
		equal(t, "number after a restart", batches[1].First, batches[0].Last+1)
		for _, b := range batches {
			equal(t, "id", b.ID, fmt.Sprintf("a/results/%s/%d-%d", b.Epoch, b.First, b.Last))
			ids[b.ID], epochs[b.Epoch] = true, true
		}
	}
	equal(t, "ids", len(ids), 4)
	equal(t, "epochs", len(epochs), 2)
}

// After the batch under way was evicted and the host restarted, the next batch is as large as the options allow, no larger.
func TestTrial05BatchAfterAnEvictedPin(t *testing.T) {
	dir, s := t.TempDir(), &sink{}
	s.set(func(extension.Batch) error { return errDown })
	opts := []option{logsTo(s), withLogBatch(10, 1<<20, 0), withQueueLimit(1 << 20), withLineLimit(1 << 10)}
	r := newRig(t, dir, opts...)
	line := fmt.Sprintf("%1000d", 1)
	for range 10 {
		r.log("string", line)
	}
	_ = r.Flush(t.Context()) // it is refused, and stays pinned
	for range 3000 {
		r.log("string", line)
	}
	r.shut()
	s.set(nil)
	r = newRig(t, dir, opts...)
	if err := r.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.shut()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.taken) < 10 {
		t.Fatalf("%d batches were taken", len(s.taken))
	}
	for _, b := range s.taken {
		if len(b.Lines) > 10 {
			t.Fatalf("a batch of %d lines, where 10 are allowed", len(b.Lines))
		}
	}
}

// Bytes of a line that are not UTF-8 reach the server as they are, in a batch of osqueryd's too.
func TestTrial11BatchKeepsBytes(t *testing.T) {
	s := &sink{}
	r := newRig(t, t.TempDir(), logsTo(s))
	r.log("string_batch", `["plain","\"caf\u00e9\"\t`+"\xff\xfe"+`\\","\ud83d\ude00`+"\xc3"+`",null,""]`)
	r.log("string_batch", "no array \xff")
	if err := r.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	sameLines(t, s.lines(), []string{"plain", "\"café\"\t\xff\xfe\\", "😀\xc3", "no array \xff"})
}

// A queue of which cursor and segment are damaged is an event, once, though no line is known to be lost.
func TestTrial11QueueDamagedOnBothFiles(t *testing.T) {
	dir, s := t.TempDir(), &sink{}
	r := newRig(t, dir, logsTo(s))
	r.logLines(3)
	r.shut()
	files, err := filepath.Glob(filepath.Join(dir, "queue", "results", "*"))
	if err != nil || len(files) != 2 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		if err := os.WriteFile(f, []byte(fmt.Sprintf("%300d", 7)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r = newRig(t, dir, logsTo(s))
	r.drops.Announce(r.Extension.events)
	damaged := eventsOf[stats.QueueDamaged](r)
	if len(damaged) != 1 {
		t.Fatalf("announced: %+v", damaged)
	}
	if d := damaged[0]; d.Queue != "results" || !d.CursorLost || d.Bytes != 300 || d.Instance != "a" {
		t.Fatalf("announced: %+v", damaged)
	}
	r.shut()
	r = newRig(t, dir, logsTo(s))
	r.drops.Announce(r.Extension.events)
	equal(t, "events of a whole queue", len(eventsOf[stats.QueueDamaged](r)), 0)
}

// What is queued comes along to another directory: as it is, or behind what is there already.
func TestTrial06QueuesComeAlong(t *testing.T) {
	for name, there := range map[string]int{"new directory": 0, "directory with lines": 2} {
		t.Run(name, func(t *testing.T) {
			from, to, s := filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "b"), &sink{}
			s.set(func(extension.Batch) error { return errDown })
			r := newRig(t, from, logsTo(s), withLogBatch(2, 1<<20, 0))
			want := r.logLines(5)
			_ = r.Flush(t.Context()) // 1 to 2 are under way
			r.shut()
			if there > 0 {
				r = newRig(t, to, logsTo(s))
				want = append(r.logLines(there), want...)
				r.shut()
			}
			under := s.tries[0].ID
			s.set(nil)
			r = newRig(t, to, logsTo(s), withDeferredQueues(), withLogBatch(2, 1<<20, 0))
			if err := errors.Join(r.AdoptQueues(t.Context(), from), r.AdoptQueues(t.Context(), from), r.OpenQueues()); err != nil {
				t.Fatal(err)
			}
			if err := r.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			sameLines(t, s.lines(), want)
			if there == 0 {
				equal(t, "id of the batch under way", s.taken[0].ID, under)
			}
			if _, err := os.Stat(delivery.QueueDir(from, extension.QueueResults)); err == nil {
				t.Error("the old queue is still there")
			}
		})
	}
}

// What cannot be brought along is announced and stays, and comes along when it can.
func TestTrial06QueueThatIsLeftIsAnnounced(t *testing.T) {
	from, to, s := filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "b"), &sink{}
	for _, dir := range []string{from, to} {
		r := newRig(t, dir, logsTo(&sink{fail: func(extension.Batch) error { return errDown }}))
		r.logLines(3)
		r.shut()
	}
	held, err := openForTest(to)
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t, to, logsTo(s), withDeferredQueues())
	if err := r.AdoptQueues(t.Context(), from); err == nil {
		t.Fatal("the queue is in use, and was written to")
	}
	r.drops.Announce(r.Extension.events)
	left := eventsOf[stats.QueueLeft](r)
	if len(left) != 1 || left[0].Queue != "results" || left[0].Dir != from || left[0].Err == nil {
		t.Fatalf("announced: %+v", left)
	}
	if err := errors.Join(held.Close(), r.AdoptQueues(t.Context(), from), r.OpenQueues(), r.Flush(t.Context())); err != nil {
		t.Fatal(err)
	}
	equal(t, "lines", len(s.lines()), 6)
}

// openForTest holds the queue of results in dir.
func openForTest(dir string) (*spool.Queue, error) {
	q, _, err := spool.Open(delivery.QueueDir(dir, extension.QueueResults), spool.Options{})
	return q, err
}

// Instances that share a budget stay within it, what it costs is announced, and a queue that refuses the newest keeps the oldest.
func TestTrial36BudgetOfAHost(t *testing.T) {
	for _, full := range []extension.FullQueue{extension.DropOldest, extension.RefuseNewest} {
		const bytes = 1 << 20
		budget, s := delivery.NewBudget(extension.DiskLimits{Bytes: bytes, MinFree: -1}), &sink{}
		s.set(func(extension.Batch) error { return errDown })
		var rigs []*rig
		for range 2 {
			r := newRig(t, t.TempDir(), logsTo(s), withDiskBudget(budget), withFullQueue(full), withLineLimit(2000))
			for i := range 3000 {
				r.log("string", fmt.Sprintf("%d %800d", i, 0))
			}
			if got := budget.Used(); got > bytes {
				t.Fatalf("%d bytes are used, of %d", got, bytes)
			}
			rigs = append(rigs, r)
		}
		for _, r := range rigs {
			r.drops.Announce(r.Extension.events)
			left, lost := int(r.Pending()["results"]), uint64(0)
			for _, e := range eventsOf[stats.LogsDropped](r) {
				lost += e.Lines
			}
			if left == 0 || left+int(lost) != 3000 {
				t.Errorf("%d lines are queued and %d announced as lost, of 3000", left, lost)
			}
			s.set(nil)
			s.taken = nil
			if err := r.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			equal(t, "delivered", len(s.lines()), left)
			first := strings.HasPrefix(s.lines()[0], "0 ")
			equal(t, "the oldest line is kept", first, full == extension.RefuseNewest)
			s.set(func(extension.Batch) error { return errDown })
		}
	}
}
