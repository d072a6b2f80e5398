package spool

import (
	"errors"
	"sync"
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

// While one flush is held up, seven more writers come; one flush more has to serve them all.
func TestGroupCommit(t *testing.T) {
	const writers = 8
	started, release := make(chan struct{}, writers), make(chan struct{})
	q, d, _, _ := badQueue(t, func(o *Options) { o.Sync = SyncEach(); o.SegmentBytes = 4096 })
	d.set(func(d *badDisk) { d.onSync = func() { started <- struct{}{}; <-release } })
	var wg sync.WaitGroup
	add := func() {
		if _, err := q.Append([]byte("x")); err != nil {
			t.Error(err)
		}
	}
	wg.Go(add)
	<-started
	for range writers - 1 {
		<-q.Notify()
		wg.Go(add)
	}
	<-q.Notify() // the last of them is written, whether or not it waits for the flush yet
	close(release)
	wg.Wait()
	if s := q.Stats(); s.Appended != writers || s.Syncs != 2 {
		t.Fatalf("%+v", s)
	}
	d.set(func(d *badDisk) { d.onSync = nil })
}

// A flush that fails says nothing good of a line that was written while it was under way, whatever the next flush says.
func TestLineWrittenDuringAFailingFlush(t *testing.T) {
	started, release := make(chan struct{}, 3), make(chan struct{})
	q, d, _, _ := badQueue(t, func(o *Options) { o.Sync = SyncEach() })
	d.set(func(d *badDisk) { d.failSync, d.onSync = true, func() { started <- struct{}{}; <-release } })
	var errs [2]error
	var wg sync.WaitGroup
	wg.Go(func() { _, errs[0] = q.Append([]byte("one")) })
	<-q.Notify()
	<-started
	d.set(func(d *badDisk) { d.failSync = false })
	wg.Go(func() { _, errs[1] = q.Append([]byte("two")) })
	<-q.Notify()
	close(release)
	wg.Wait()
	if !errors.Is(errs[0], ErrNotSynced) || !errors.Is(errs[1], ErrNotSynced) {
		t.Fatalf("%v; %v", errs[0], errs[1])
	}
	d.set(func(d *badDisk) { d.onSync = nil })
	mustAppend(t, q, 1) // in another segment
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
			<-q.Notify()
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
