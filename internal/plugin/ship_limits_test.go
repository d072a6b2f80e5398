package plugin

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/internal/guard"
	"github.com/osqvisor/osqvisor/stats"
)

func TestLineAboveTheLimitIsDroppedAndAnnounced(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &sink{}
		r := newRig(t, t.TempDir(), logsTo(s), withLineLimit(10))
		r.start()
		r.log("string", "12345678901")
		r.log("string", "1234567890")
		pass(5 * time.Second)
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
		tr := extension.Funcs{LogsFunc: func(ctx context.Context, _ extension.Node, b extension.Batch) error {
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
		r := newRig(t, t.TempDir(), withTransport(tr), withLogBatch(10000, 256<<10, 0), withTransportTimeout(10*time.Second))
		for range 1024 {
			r.log("string", strings.Repeat("x", 1<<10))
		}
		r.start()
		pass(20 * time.Minute)
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
		pass(time.Minute)
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
		r := newRig(t, t.TempDir(), logsTo(s), withLogBatch(10, 1<<20, 0), withBackfillRate(1000))
		for range 100 {
			r.log("string", strings.Repeat("x", 100))
		}
		r.start()
		pass(20 * time.Second)
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
		r := newRig(t, t.TempDir(), logsTo(s), withLogBatch(1000, 1<<20, time.Hour))
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
		tr := extension.Funcs{LogsFunc: func(context.Context, extension.Node, extension.Batch) error { <-hang; return nil }}
		r := newRig(t, t.TempDir(), withTransport(tr), withLogBatch(1, 1<<20, 0), withDrain(3*time.Second))
		stop := r.start()
		r.logLines(2)
		synctest.Wait()
		start := time.Now()
		err := stop()
		if took := time.Since(start); took > 6*time.Second {
			t.Errorf("a transport that hangs held up the end for %v", took)
		}
		if !errors.Is(err, guard.ErrNotReturned) {
			t.Errorf("a goroutine is left, and Run says %v", err)
		}
		equal(t, "waiting", r.Pending()["results"], 2)
		close(hang)
		synctest.Wait()
	})
}

func TestWithoutSinkLinesAreCountedAndDiscarded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		for _, tr := range []extension.Transport{nil, extension.Funcs{}} {
			r := newRig(t, t.TempDir(), withTransport(tr))
			r.start()
			r.logLines(3)
			pass(time.Minute)
			synctest.Wait()
			r.logLines(3)
			r.shut()
			equal(t, "waiting", r.Pending()["results"], 0)
			equal(t, "announcements", len(eventsOf[stats.LogsDropped](r)), 0)
			equal(t, "failures", len(eventsOf[stats.TransportFailed](r)), 0)
		}
	})
}

// A queue that is never empty, because lines come while others are sent, goes back to
// whole batches after an outage in which it lost lines, or a restart.
func TestBatchesFillUpAgainAfterAnOutage(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &sink{}
		s.set(func(extension.Batch) error { return errDown })
		tr := extension.Funcs{LogsFunc: func(ctx context.Context, n extension.Node, b extension.Batch) error {
			pass(100 * time.Millisecond)
			return s.publish(ctx, n, b)
		}}
		r := newRig(t, t.TempDir(), withTransport(tr), withQueueLimit(1<<20), withLogBatch(1000, 200<<10, 2*time.Second))
		r.start()
		for range 4 << 10 {
			r.log("string", strings.Repeat("x", 1<<10))
		}
		s.set(nil)
		for range 100 * 60 {
			r.log("string", "x")
			pass(10 * time.Millisecond)
		}
		synctest.Wait()
		s.mu.Lock()
		defer s.mu.Unlock()
		if last := s.taken[len(s.taken)-1]; len(last.Lines) < 150 {
			t.Errorf("a batch of lines that come every 10 ms has %d of them, not those of 2 s", len(last.Lines))
		}
	})
}

// What a server finds too large is learnt: the batches after it are not sent for nothing first.
func TestTooLargeIsLearnt(t *testing.T) {
	s := &sink{}
	s.set(func(b extension.Batch) error {
		if b.Bytes > 300<<10 {
			return extension.ErrTooLarge
		}
		return nil
	})
	r := newRig(t, t.TempDir(), logsTo(s), withLogBatch(10000, 1<<20, 0), withTransportTimeout(time.Hour))
	for range 10 << 10 {
		r.log("string", strings.Repeat("x", 1<<10))
	}
	if err := r.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	equal(t, "lines", len(s.lines()), 10<<10)
	equal(t, "refused batches", len(s.tries)-len(s.taken), 2)
}
