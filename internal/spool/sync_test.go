package spool

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestIntervalFlushesOnceAndThenRests(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		o := small()
		o.Sync = SyncInterval(time.Second)
		q, _, err := Open(dir, o)
		if err != nil {
			t.Fatal(err)
		}
		mustAppend(t, q, 5)
		pass(999 * time.Millisecond)
		synctest.Wait()
		if n := q.Stats().Syncs; n != 0 {
			t.Fatalf("%d flushes too early", n)
		}
		pass(time.Millisecond)
		synctest.Wait()
		if n := q.Stats().Syncs; n != 1 {
			t.Fatalf("%d flushes", n)
		}
		pass(time.Hour)
		if n := q.Stats().Syncs; n != 1 {
			t.Fatalf("%d flushes of nothing", n)
		}
		mustAppend(t, q, 1)
		mustClose(t, q)
		if n := q.Stats().Syncs; n != 2 {
			t.Fatalf("Close did not flush: %d", n)
		}
	}) // fails if a goroutine is left
}

// pass lets a bubble's time go by.
func pass(d time.Duration) {
	time.Sleep(d) //nolint:forbidigo // a bubble's clock moves only while everything in it sleeps
}

func TestEachFlushesBeforeItReturns(t *testing.T) {
	q, _, _, _ := badQueue(t, func(o *Options) { o.Sync = SyncEach() })
	for n := uint64(1); n < 10; n++ {
		mustAppend(t, q, 1)
		if got := q.Stats().Syncs; got != n {
			t.Fatalf("%d flushes after %d lines", got, n)
		}
	}
}

func TestSync(t *testing.T) {
	for _, p := range []SyncPolicy{SyncNever(), SyncInterval(time.Hour)} {
		q, d, _, _ := badQueue(t, func(o *Options) { o.Sync = p })
		mustAppend(t, q, 3)
		if err := errors.Join(q.Sync(), q.Sync()); err != nil || q.Stats().Syncs != 1 {
			t.Fatalf("%v, %d flushes", err, q.Stats().Syncs)
		}
		mustAppend(t, q, 1)
		d.set(func(d *badDisk) { d.failSync = true })
		if err := q.Sync(); !errors.Is(err, ErrNotSynced) {
			t.Fatal(err)
		}
		d.set(func(d *badDisk) { d.failSync = false })
	}
}

// Every line is flushed before its Append returns, however many writers there are.
func TestManyWritersUnderEach(t *testing.T) {
	const writers = 8
	d := newDisk(5)
	d.harmful = true
	q, _ := mustOpen(t, diskDir, onDisk(d, SyncEach()))
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			if _, err := q.Append([]byte("x")); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	d.cut()
	_ = q.Close()
	d.restart()
	q, rep := mustOpen(t, diskDir, onDisk(d, SyncEach()))
	if lines, _ := drain(t, q, 0); len(lines) != writers || !rep.Clean() {
		t.Fatalf("%d lines, %+v", len(lines), rep)
	}
}

// A flush holds up no Append. One that fails proves nothing about a line that was written while it was under way, whatever the next
// flush returns.
func TestLineWrittenDuringAFailingFlush(t *testing.T) {
	started, release := make(chan struct{}, 3), make(chan struct{})
	q, d, _, _ := badQueue(t, func(o *Options) { o.Sync = SyncInterval(time.Hour) })
	mustAppend(t, q, 1)
	d.set(func(d *badDisk) { d.failSync, d.onSync = true, func() { started <- struct{}{}; <-release } })
	var failed error
	var wg sync.WaitGroup
	wg.Go(func() { failed = q.Sync() })
	<-started
	mustAppend(t, q, 1)
	close(release)
	wg.Wait()
	d.set(func(d *badDisk) { d.failSync, d.onSync = false, nil })
	if second := q.Sync(); !errors.Is(failed, ErrNotSynced) || !errors.Is(second, ErrNotSynced) {
		t.Fatalf("%v; %v", failed, second)
	}
	if err := q.Ack(1); err != nil {
		t.Fatal(err)
	}
	if err := q.Sync(); !errors.Is(err, ErrNotSynced) {
		t.Fatalf("line 2: %v", err)
	}
	mustAppend(t, q, 1)
	if n := q.Stats().Segments; n != 2 {
		t.Fatalf("%d segments: the next line goes to another one", n)
	}
}

// Who waited for a flush that failed may come to look only after the next one failed too.
func TestFailedFlushIsNotForgotten(t *testing.T) {
	q, d, _, _ := badQueue(t, func(o *Options) { o.Sync = SyncInterval(time.Hour) })
	d.set(func(d *badDisk) { d.failSync = true })
	for range 2 {
		mustAppend(t, q, 1)
		if err := q.Sync(); !errors.Is(err, ErrNotSynced) {
			t.Fatal(err)
		}
	}
	if err := q.syncTo(1); !errors.Is(err, ErrNotSynced) {
		t.Fatalf("line 1: %v", err)
	}
	d.set(func(d *badDisk) { d.failSync = false })
}

func TestNoAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	line := make([]byte, 300)
	for name, p := range map[string]SyncPolicy{"each": SyncEach(), "interval": SyncInterval(time.Hour), "never": SyncNever()} {
		q, _ := mustOpen(t, t.TempDir(), Options{Sync: p})
		if n := testing.AllocsPerRun(200, func() { _, _ = q.Append(line); _ = q.Stats() }); n != 0 {
			t.Errorf("%s: %v allocations a line", name, n)
		}
	}
}

func TestManyWritersReadersAndAcks(t *testing.T) {
	o := small()
	o.MaxBytes, o.Sync = 1<<20, SyncInterval(time.Millisecond)
	q, _ := mustOpen(t, t.TempDir(), o)
	const writers, each = 4, 500
	came := make(chan struct{}, 1)
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			var before uint64
			for range each {
				seq, err := q.Append([]byte("a line of some length, the same for all"))
				if err != nil || seq <= before {
					t.Errorf("seq %d after %d: %v", seq, before, err)
				}
				before = seq
				select {
				case came <- struct{}{}:
				default:
				}
			}
		})
	}
	wg.Go(func() { // looks on
		for range 200 {
			if _, err := q.Read(0, 10, 0); err != nil {
				t.Error(err)
			}
			_ = q.Stats()
		}
	})
	for next := uint64(1); next <= writers*each; {
		b, err := q.Read(next-1, 50, 0)
		if err != nil {
			t.Fatal(err)
		}
		if b.Last == 0 {
			<-came
			continue
		}
		if b.First != next || len(b.Gaps) != 0 {
			t.Fatalf("got %d, want %d, gaps %v", b.First, next, b.Gaps)
		}
		next = b.Last + 1
		if err := q.Ack(b.Last); err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
	if s := q.Stats(); s.Records != 0 || s.Acked != writers*each {
		t.Fatalf("%+v", s)
	}
}

// Close may come at any moment: every call returns, and what Append accepted is there.
func TestCloseWhileCallsRun(t *testing.T) {
	for _, p := range []SyncPolicy{SyncEach(), SyncInterval(time.Millisecond), SyncNever()} {
		o := small()
		o.MaxBytes, o.Sync = 1<<22, p
		dir := t.TempDir()
		q, _ := mustOpen(t, dir, o)
		var accepted atomic.Uint64
		var wg sync.WaitGroup
		ready := make(chan struct{})
		until := func(do func() error) {
			wg.Go(func() {
				for {
					if err := do(); errors.Is(err, ErrClosed) {
						return
					} else if err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		for range 3 {
			until(func() error {
				seq, err := q.Append([]byte("a line of some length"))
				if err == nil && accepted.Add(1) == 200 {
					close(ready)
				}
				if err != nil && seq != 0 {
					t.Errorf("line %d is stored, and Append returned %v", seq, err)
				}
				return err
			})
		}
		until(q.Sync)
		until(func() error { return q.Pin(min(q.Stats().Last, 20)) })
		until(func() error { return q.Ack(min(q.Stats().Last, 10)) })
		until(func() error { _, err := q.Read(0, 10, 0); return err })
		<-ready
		if err := q.Ack(10); err != nil {
			t.Fatal(err)
		}
		mustClose(t, q)
		wg.Wait()
		_, rep := mustOpen(t, dir, o)
		if n := accepted.Load(); !rep.Clean() || rep.Next != n+1 || rep.Records != n-10 {
			t.Fatalf("%d lines accepted: %+v", n, rep)
		}
	}
}
