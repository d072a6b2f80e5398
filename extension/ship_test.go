package extension

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/osqvisor/osqvisor/stats"
)

func TestShipsBatchesByLinesAndAge(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &sink{}
		r := newRig(t, t.TempDir(), logsTo(s), WithLogBatch(3, 1<<20, 2*time.Second))
		stop := r.start()
		want := r.logLines(4)
		synctest.Wait()
		sameLines(t, s.lines(), want[:3]) // a full batch goes at once
		time.Sleep(1900 * time.Millisecond)
		synctest.Wait()
		equal(t, "lines before the age", len(s.lines()), 3)
		time.Sleep(200 * time.Millisecond)
		synctest.Wait()
		sameLines(t, s.lines(), want)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		shipped := eventsOf[stats.LogsShipped](r)
		equal(t, "batches", len(shipped), 2)
		equal(t, "first id", shipped[0].Batch, "a/results/1-3")
		equal(t, "second id", shipped[1].Batch, "a/results/4-4")
	})
}

func TestShipsBatchesByBytesAndBigLinesAlone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &sink{}
		r := newRig(t, t.TempDir(), logsTo(s), WithLogBatch(100, 20, 0))
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
		s.set(func(Batch) error {
			if failures--; failures >= 0 {
				return errDown
			}
			return nil
		})
		r := newRig(t, t.TempDir(), logsTo(s), WithLogBatch(2, 1<<20, 0), WithBackoff(time.Second, time.Minute))
		r.start()
		want := r.logLines(2)
		synctest.Wait()
		want = append(want, r.logLines(3)...)
		time.Sleep(time.Minute)
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
		s.set(func(b Batch) error {
			if b.Try == 1 {
				return RetryAfter(40*time.Second, errDown)
			}
			return nil
		})
		r := newRig(t, t.TempDir(), logsTo(s), WithLogBatch(2, 1<<20, 0))
		r.start()
		r.logLines(1)
		synctest.Wait()
		if err := r.Flush(t.Context()); retryAfter(err) == 0 {
			t.Errorf("flush against the server's wish: %v", err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		equal(t, "tries", len(s.arrived), 2)
		equal(t, "wait", s.arrived[1].Sub(s.arrived[0]), 40*time.Second)
	})
}

func TestBatchIDIsStableAcrossRestart(t *testing.T) {
	dir := t.TempDir()
	s := &sink{}
	s.set(func(Batch) error { return errDown })
	r := newRig(t, dir, logsTo(s), WithLogBatch(10, 1<<20, 0))
	want := r.logLines(3)
	if err := r.Flush(t.Context()); !errors.Is(err, errDown) {
		t.Fatal(err)
	}
	want = append(want, r.logLines(2)...)
	r.shut()

	s.set(nil)
	r = newRig(t, dir, logsTo(s), WithLogBatch(2, 1<<20, 0))
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
		tr := Funcs{LogsFunc: func(ctx context.Context, n Node, b Batch) error {
			if b.Queue == QueueSnapshots {
				<-hang
			}
			return s.publish(ctx, n, b)
		}}
		r := newRig(t, t.TempDir(), WithTransport(tr), WithLogBatch(1, 1<<20, 0))
		r.start()
		r.log("snapshot", "stuck")
		synctest.Wait()
		want := r.logLines(5)
		r.Call(t.Context(), "logger", "osqvisor", map[string]string{"status": "true", "log": `[{"m":"x"}]`})
		time.Sleep(time.Second)
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
	s.set(func(b Batch) error {
		if b.First == 1 {
			return errors.Join(ErrPermanent, errors.New("schema"))
		}
		return nil
	})
	r := newRig(t, dir, logsTo(s), WithLogBatch(2, 1<<20, 0))
	want := r.logLines(4)
	if err := r.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	sameLines(t, s.lines(), want[2:])
	r.shut()
	dead, err := os.ReadFile(filepath.Join(dir, "queue", "results.dead"))
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range append(want[:2], `"batch":"a/results/1-2"`, "schema") {
		if !strings.Contains(string(dead), part) {
			t.Errorf("the dead letters lack %q: %s", part, dead)
		}
	}
	lost := eventsOf[stats.LogsDropped](r)
	equal(t, "announcements", len(lost), 1)
	equal(t, "lines", lost[0].Lines, 2)
}

func TestDeadLettersAreBounded(t *testing.T) {
	d := newDeadLetters(t.TempDir(), QueueResults, 4000)
	if err := os.MkdirAll(filepath.Dir(d.path), 0o700); err != nil {
		t.Fatal(err)
	}
	line := []byte(strings.Repeat("x", 300))
	for i := range 40 {
		b := Batch{ID: "b" + strings.Repeat("i", i%3), Lines: [][]byte{line}, Bytes: len(line)}
		if err := d.keep(b, errDown); err != nil {
			t.Fatal(err)
		}
	}
	var sum int64
	for _, name := range []string{d.path, d.path + ".1"} {
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
	if err := d.keep(Batch{ID: "big", Lines: [][]byte{big}, Bytes: 3000}, errDown); err == nil {
		t.Error("a batch above the limit was kept")
	}
}

func TestTooLargeIsSplit(t *testing.T) {
	s := &sink{}
	s.set(func(b Batch) error {
		if len(b.Lines) > 2 || string(b.Lines[0]) == `{"n":6}` {
			return ErrTooLarge
		}
		return nil
	})
	r := newRig(t, t.TempDir(), logsTo(s), WithLogBatch(7, 1<<20, 0))
	want := r.logLines(8)
	if err := r.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	sameLines(t, s.lines(), append(want[:6:6], want[7]))
	equal(t, "given up", uint64(8-len(s.lines())), uint64(1))
	for _, b := range s.taken {
		equal(t, "id", b.ID, batchID("a", QueueResults, b.First, b.Last))
		equal(t, "numbers", b.Last-b.First+1, uint64(len(b.Lines)))
	}
}

func TestLineAboveTheLimitIsDroppedAndAnnounced(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &sink{}
		r := newRig(t, t.TempDir(), logsTo(s), WithLineLimit(10))
		r.start()
		r.log("string", "12345678901")
		r.log("string", "1234567890")
		time.Sleep(5 * time.Second)
		synctest.Wait()
		sameLines(t, s.lines(), []string{"1234567890"})
		lost := eventsOf[stats.LogsDropped](r)
		equal(t, "announcements", len(lost), 1)
		equal(t, "bytes", lost[0].Bytes, 11)
	})
}

func TestSlowLinkGetsSmallerBatchesAndMoreTime(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const rate = 4 << 10 // bytes a second
		var sizes []int
		slow := true
		var hold sync.Mutex
		var got int
		tr := Funcs{LogsFunc: func(ctx context.Context, _ Node, b Batch) error {
			hold.Lock()
			defer hold.Unlock()
			sizes = append(sizes, b.Bytes)
			if slow {
				select {
				case <-time.After(time.Duration(b.Bytes) * time.Second / rate):
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			got += len(b.Lines)
			return nil
		}}
		r := newRig(t, t.TempDir(), WithTransport(tr), WithLogBatch(10000, 256<<10, 0), WithTransportTimeout(10*time.Second))
		for range 1024 {
			r.log("string", strings.Repeat("x", 1<<10))
		}
		r.start()
		time.Sleep(20 * time.Minute)
		synctest.Wait()
		equal(t, "lines", got, 1024)
		equal(t, "first batch", sizes[0], 256<<10)
		if last := sizes[len(sizes)-1]; last > 64<<10 {
			t.Errorf("batches on a slow link have %d bytes", last)
		}
		hold.Lock()
		slow = false
		n := len(sizes)
		for range 2048 {
			r.log("string", strings.Repeat("x", 1<<10))
		}
		hold.Unlock()
		time.Sleep(time.Minute)
		synctest.Wait()
		equal(t, "lines", got, 3072)
		biggest := 0
		for _, b := range sizes[n:] {
			biggest = max(biggest, b)
		}
		equal(t, "biggest batch on a fast link", biggest, 256<<10)
	})
}

func TestBackfillRate(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &sink{}
		r := newRig(t, t.TempDir(), logsTo(s), WithLogBatch(10, 1<<20, 0), WithBackfillRate(1000))
		for range 100 {
			r.log("string", strings.Repeat("x", 100))
		}
		r.start()
		time.Sleep(20 * time.Second)
		synctest.Wait()
		equal(t, "lines", len(s.lines()), 100)
		took := s.arrived[len(s.arrived)-1].Sub(s.arrived[0])
		if took < 8*time.Second || took > 10*time.Second {
			t.Errorf("10000 bytes at 1000 a second took %v", took)
		}
	})
}

func TestRunDrainsAndMayRunAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &sink{}
		r := newRig(t, t.TempDir(), logsTo(s), WithLogBatch(1000, 1<<20, time.Hour))
		for round := range 3 {
			stop := r.start()
			r.logLines(2)
			synctest.Wait()
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			equal(t, "lines after a drain", len(s.lines()), 2*(round+1))
		}
	})
}

func TestDrainIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		hang := make(chan struct{})
		tr := Funcs{LogsFunc: func(context.Context, Node, Batch) error { <-hang; return nil }}
		r := newRig(t, t.TempDir(), WithTransport(tr), WithLogBatch(1, 1<<20, 0), WithDrain(3*time.Second))
		stop := r.start()
		r.logLines(2)
		synctest.Wait()
		start := time.Now()
		err := stop()
		if took := time.Since(start); took > 6*time.Second {
			t.Errorf("a transport that hangs held up the end for %v", took)
		}
		if !errors.Is(err, errNotReturned) {
			t.Errorf("a goroutine is left, and Run says %v", err)
		}
		equal(t, "waiting", r.Pending()["results"], 2)
		close(hang)
		synctest.Wait()
	})
}

func TestWithoutSinkLinesAreCountedAndDiscarded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		for _, tr := range []Transport{nil, Funcs{}} {
			r := newRig(t, t.TempDir(), WithTransport(tr))
			r.start()
			r.logLines(3)
			time.Sleep(time.Minute)
			synctest.Wait()
			r.logLines(3)
			r.shut()
			equal(t, "waiting", r.Pending()["results"], 0)
			equal(t, "announcements", len(eventsOf[stats.LogsDropped](r)), 0)
			equal(t, "failures", len(eventsOf[stats.TransportFailed](r)), 0)
		}
	})
}
