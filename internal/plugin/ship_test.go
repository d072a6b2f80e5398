package plugin

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/internal/delivery"
	"github.com/osqvisor/osqvisor/stats"
)

func TestShipsBatchesByLinesAndAge(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &sink{}
		r := newRig(t, t.TempDir(), logsTo(s), withLogBatch(3, 1<<20, 2*time.Second))
		stop := r.start()
		want := r.logLines(4)
		synctest.Wait()
		sameLines(t, s.lines(), want[:3]) // a full batch goes at once
		pass(1900 * time.Millisecond)
		synctest.Wait()
		equal(t, "lines before the age", len(s.lines()), 3)
		pass(200 * time.Millisecond)
		synctest.Wait()
		sameLines(t, s.lines(), want)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		shipped := eventsOf[stats.LogsDelivered](r)
		equal(t, "batches", len(shipped), 2)
		equal(t, "first id", short(shipped[0].Batch), "a/results/1-3")
		equal(t, "second id", short(shipped[1].Batch), "a/results/4-4")
	})
}

func TestShipsBatchesByBytesAndBigLinesAlone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &sink{}
		r := newRig(t, t.TempDir(), logsTo(s), withLogBatch(100, 20, 0))
		for _, l := range []string{"1234567890", "1234567890", "x", strings.Repeat("y", 50), "z"} {
			r.log("string", l)
		}
		if err := r.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		sameLines(t, s.ids(), []string{"a/results/1-2", "a/results/3-3", "a/results/4-4", "a/results/5-5"})
	})
}

func TestKeepsOrderAndIDAcrossFailures(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &sink{}
		failures := 4
		s.set(func(extension.Batch) error {
			if failures--; failures >= 0 {
				return errDown
			}
			return nil
		})
		r := newRig(t, t.TempDir(), logsTo(s), withLogBatch(2, 1<<20, 0), withBackoff(time.Second, time.Minute))
		r.start()
		want := r.logLines(2)
		synctest.Wait()
		want = append(want, r.logLines(3)...)
		pass(time.Minute)
		synctest.Wait()
		sameLines(t, s.lines(), want)
		for i, id := range s.ids()[:5] {
			equal(t, "id of a try", id, s.ids()[0])
			equal(t, "try", s.tries[i].Try, i+1)
		}
		failed := eventsOf[stats.TransportFailed](r)
		equal(t, "failures", len(failed), 4)
		for i := 1; i < len(failed); i++ {
			if failed[i].Retry < failed[i-1].Retry*11/10 {
				t.Errorf("the backoff does not grow: %v, then %v", failed[i-1].Retry, failed[i].Retry)
			}
		}
	})
}

func TestHonoursRetryAfter(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &sink{}
		s.set(func(b extension.Batch) error {
			if b.Try == 1 {
				return extension.RetryAfter(40*time.Second, errDown)
			}
			return nil
		})
		r := newRig(t, t.TempDir(), logsTo(s), withLogBatch(2, 1<<20, 0))
		r.start()
		r.logLines(1)
		synctest.Wait()
		if err := r.Flush(t.Context()); delivery.RetryAfter(err) == 0 {
			t.Errorf("flush against the server's wish: %v", err)
		}
		pass(time.Minute)
		synctest.Wait()
		equal(t, "tries", len(s.arrived), 2)
		equal(t, "wait", s.arrived[1].Sub(s.arrived[0]), 40*time.Second)
	})
}

func TestBatchIDIsStableAcrossRestart(t *testing.T) {
	dir := t.TempDir()
	s := &sink{}
	s.set(func(extension.Batch) error { return errDown })
	r := newRig(t, dir, logsTo(s), withLogBatch(10, 1<<20, 0))
	want := r.logLines(3)
	if err := r.Flush(t.Context()); !errors.Is(err, errDown) {
		t.Fatal(err)
	}
	want = append(want, r.logLines(2)...)
	r.shut()

	s.set(nil)
	r = newRig(t, dir, logsTo(s), withLogBatch(2, 1<<20, 0))
	if err := r.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	sameLines(t, s.ids(), []string{"a/results/1-3", "a/results/1-3", "a/results/4-5"})
	sameLines(t, s.lines(), want)
	r.shut()

	r = newRig(t, dir, logsTo(s))
	if err := r.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	equal(t, "tries after everything was taken", len(s.ids()), 3)
}

func TestOneQueueDoesNotStarveAnother(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &sink{}
		hang := make(chan struct{})
		tr := extension.Funcs{LogsFunc: func(ctx context.Context, n extension.Node, b extension.Batch) error {
			if b.Queue == extension.QueueSnapshots {
				<-hang
			}
			return s.publish(ctx, n, b)
		}}
		r := newRig(t, t.TempDir(), withTransport(tr), withLogBatch(1, 1<<20, 0))
		r.start()
		r.log("snapshot", "stuck")
		synctest.Wait()
		want := r.logLines(5)
		r.Call(t.Context(), "logger", "osqvisor", map[string]string{"status": "true", "log": `[{"m":"x"}]`})
		pass(time.Second)
		synctest.Wait()
		equal(t, "lines", len(s.lines()), len(want)+1)
		close(hang)
		synctest.Wait()
		equal(t, "lines", len(s.lines()), len(want)+2)
	})
}

func TestPermanentFailureGoesToTheDeadLetters(t *testing.T) {
	dir := t.TempDir()
	s := &sink{}
	s.set(func(b extension.Batch) error {
		if b.First == 1 {
			return errors.Join(extension.ErrPermanent, errors.New("schema"))
		}
		return nil
	})
	r := newRig(t, dir, logsTo(s), withLogBatch(2, 1<<20, 0))
	want := r.logLines(4)
	if err := r.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	sameLines(t, s.lines(), want[1:])
	r.shut()
	dead, err := os.ReadFile(filepath.Join(dir, "queue", "results.dead"))
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range append(want[:1], `"batch":"`+delivery.BatchID("a", extension.QueueResults, s.tries[0].Epoch, 1, 1)+`"`, "schema") {
		if !strings.Contains(string(dead), part) {
			t.Errorf("the dead letters lack %q: %s", part, dead)
		}
	}
	lost := eventsOf[stats.LogsDropped](r)
	equal(t, "announcements", len(lost), 1)
	equal(t, "lines", lost[0].Lines, 1)
}

func TestDeadLettersAreBounded(t *testing.T) {
	d := delivery.NewDeadLetters(t.TempDir(), extension.QueueResults, 4000)
	if err := os.MkdirAll(filepath.Dir(d.Path), 0o700); err != nil {
		t.Fatal(err)
	}
	line := []byte(strings.Repeat("x", 300))
	for i := range 40 {
		b := extension.Batch{ID: "b" + strings.Repeat("i", i%3), Lines: [][]byte{line}, Bytes: len(line)}
		if err := d.Keep(b, errDown); err != nil {
			t.Fatal(err)
		}
	}
	var sum int64
	for _, name := range []string{d.Path, d.Path + ".1"} {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		sum += info.Size()
	}
	if sum > 4000 || sum < 1500 {
		t.Errorf("%d bytes are kept under a limit of 4000", sum)
	}
	big := make([]byte, 3000)
	if err := d.Keep(extension.Batch{ID: "big", Lines: [][]byte{big}, Bytes: 3000}, errDown); err == nil {
		t.Error("a batch above the limit was kept")
	}
}

func TestTooLargeIsSplit(t *testing.T) {
	s := &sink{}
	s.set(func(b extension.Batch) error {
		if len(b.Lines) > 2 || string(b.Lines[0]) == `{"n":6}` {
			return extension.ErrTooLarge
		}
		return nil
	})
	r := newRig(t, t.TempDir(), logsTo(s), withLogBatch(7, 1<<20, 0))
	want := r.logLines(8)
	if err := r.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	sameLines(t, s.lines(), append(want[:6:6], want[7]))
	equal(t, "given up", uint64(8-len(s.lines())), uint64(1))
	for _, b := range s.taken {
		equal(t, "id", b.ID, delivery.BatchID("a", extension.QueueResults, b.Epoch, b.First, b.Last))
		equal(t, "numbers", b.Last-b.First+1, uint64(len(b.Lines)))
	}
}
