package plugin

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"slices"
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

// settingLogs sets what is in force, which has to be accepted.
func (r *rig) settingLogs(l extension.Logs) {
	r.t.Helper()
	if err := r.SetLogs(l); err != nil {
		r.t.Fatal(err)
	}
}

// sizes returns how many lines the accepted batches have, from one on.
func (s *sink) sizes(from int) []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []int
	for _, b := range s.taken[from:] {
		out = append(out, len(b.Lines))
	}
	return out
}

func TestSetLogsLimitsTheNextBatches(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &sink{}
		r := newRig(t, t.TempDir(), logsTo(s), withLogBatch(2, 1<<20, time.Hour), withBackoff(time.Hour, time.Hour))
		flush := func() {
			t.Helper()
			r.logLines(6)
			if err := r.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		flush()
		r.settingLogs(extension.Logs{BatchLines: 3, QueueBytes: 1 << 20})
		flush()
		r.settingLogs(extension.Logs{BatchBytes: 8}) // a line has 7
		flush()
		if got := s.sizes(0); !slices.Equal(got, []int{2, 2, 2, 3, 3, 1, 1, 1, 1, 1, 1}) {
			t.Errorf("batches have %v lines", got)
		}
		if err := r.SetLogs(extension.Logs{BatchLines: -1, Delivery: extension.Delivery{MaxAttempts: 1}}); err == nil {
			t.Error("bad settings were accepted")
		}
		r.settingLogs(extension.Logs{BatchAge: time.Hour})
		r.start()
		n := len(s.taken)
		r.log("string", "waits")
		pass(time.Minute)
		equal(t, "batches before their age", len(s.sizes(n)), 0)
		r.settingLogs(extension.Logs{BatchAge: 2 * time.Minute})
		pass(90 * time.Second)
		equal(t, "batches at the new age", len(s.sizes(n)), 1)

		tried := len(s.arrived)
		for range 31 { // which wait for their age
			r.log("string", strings.Repeat("x", 100))
		}
		r.settingLogs(extension.Logs{BatchLines: 10, BatchAge: -1, BackfillRate: 100})
		pass(time.Hour)
		synctest.Wait()
		var longest time.Duration
		for i := tried + 1; i < len(s.arrived); i++ {
			longest = max(longest, s.arrived[i].Sub(s.arrived[i-1]))
		}
		if longest < 10*time.Second {
			t.Errorf("batches of 1000 bytes came %v after another at most, at 100 bytes a second", longest)
		}
	})
}

func TestSetLogsChangesTheWaits(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &sink{fail: func(extension.Batch) error { return errDown }}
		r := newRig(t, t.TempDir(), logsTo(s), withBackoff(time.Hour, time.Hour))
		r.settingLogs(extension.Logs{Delivery: extension.Delivery{FirstWait: time.Second, LongestWait: time.Second}})
		r.start()
		r.log("string", "a")
		pass(20 * time.Second)
		if n := len(s.ids()); n < 10 {
			t.Errorf("%d tries in 20 seconds, with waits of one", n)
		}
	})
}

// timed is a transport that notes how long each call may take.
type timed struct {
	extension.Funcs
	note func(context.Context)
}

func (e timed) Enroll(ctx context.Context, _ extension.EnrollRequest) (string, error) {
	e.note(ctx)
	return "key", nil
}

func TestSetLogsBoundsEveryCall(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var bounds []time.Duration
		tr := timed{note: func(ctx context.Context) {
			until, _ := ctx.Deadline()
			bounds = append(bounds, time.Until(until))
		}}
		tr.ConfigFunc = func(ctx context.Context, _ extension.Node) (map[string]string, error) {
			tr.note(ctx)
			return map[string]string{"a": "{}"}, nil
		}
		tr.LogsFunc = func(ctx context.Context, _ extension.Node, _ extension.Batch) error {
			tr.note(ctx)
			return nil
		}
		r := newRig(t, t.TempDir(), withTransport(tr), withTransportTimeout(time.Minute))
		r.settingLogs(extension.Logs{Delivery: extension.Delivery{Timeout: 7 * time.Second}})
		if _, _, err := r.FetchConfig(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.log("string", "a")
		if err := r.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if want := []time.Duration{7 * time.Second, 7 * time.Second, 7 * time.Second}; !slices.Equal(bounds, want) {
			t.Errorf("enrolment, config and logs may take %v, want %v", bounds, want)
		}
	})
}

func TestSetLogsSignsTheBatchUnderWayAnew(t *testing.T) {
	_, first, _ := ed25519.GenerateKey(rand.Reader)
	_, second, _ := ed25519.GenerateKey(rand.Reader)
	s := &sink{fail: func(extension.Batch) error { return errDown }}
	r := newRig(t, t.TempDir(), logsTo(s), withSigner(first))
	r.logLines(3)
	if err := r.Flush(t.Context()); err == nil {
		t.Fatal("no error")
	}
	r.settingLogs(extension.Logs{Signer: second})
	s.set(nil)
	if err := r.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	equal(t, "id of the second try", s.tries[1].ID, s.tries[0].ID)
	if err := errors.Join(extension.Verify(first.Public(), s.tries[0]), extension.Verify(second.Public(), s.tries[1])); err != nil {
		t.Error(err)
	}
	r.settingLogs(extension.Logs{})
	r.logLines(1)
	if err := r.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	equal(t, "bytes of a signature that nobody wants", len(s.taken[1].Signature), 0)
}

func TestSetLogsKeepsDeadLetters(t *testing.T) {
	dir := t.TempDir()
	s := &sink{fail: func(extension.Batch) error { return extension.ErrPermanent }}
	r := newRig(t, dir, logsTo(s), func(s *Settings) { s.Logs.DeadLetterBytes = -1 })
	kept := func() bool {
		r.logLines(1)
		_ = r.Flush(t.Context())
		_, err := os.Stat(filepath.Join(dir, "queue", "results.dead"))
		return err == nil
	}
	equal(t, "kept when it is off", kept(), false)
	r.settingLogs(extension.Logs{})
	equal(t, "kept by default", kept(), true)
}

// Settings change while osqueryd logs and batches are sent; no line is lost for it.
func TestSetLogsAtAnyMoment(t *testing.T) {
	s := &sink{}
	r := newRig(t, t.TempDir(), logsTo(s), withLogBatch(5, 1<<20, time.Millisecond))
	stop := r.start()
	var changes sync.WaitGroup
	for n := range 3 {
		changes.Go(func() {
			for i := range 100 {
				l := extension.Logs{BatchLines: 1 + i%7, BatchAge: time.Millisecond, DeadLetterBytes: int64(1+i) << 10}
				l.Delivery.FirstWait = time.Duration(1+n) * time.Second
				if err := r.SetLogs(l); err != nil {
					t.Error(err)
				}
			}
		})
	}
	want := r.logLines(500)
	changes.Wait()
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	sameLines(t, s.lines(), want)
}
