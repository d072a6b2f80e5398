package spool

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// maxFailed bounds the list of lines that could not be flushed.
const maxFailed = 64

// flushState is guarded by Queue.mu.
type flushState struct {
	upTo    uint64 // lines up to here need no flush: it was done, or failed for good
	seal    bool   // a flush failed: go on in another segment
	failed  []span // lines above the floor that a failed flush left unflushed for good
	failure error  // of the last such flush
	armed   bool   // the interval timer runs
	timer   *time.Timer
	timers  sync.WaitGroup // armed timers, until their callback is over
}

// Sync flushes all lines appended so far, whatever the policy, and returns when they survive a power cut. The error is
// ErrNotSynced; it comes again while lines that could not be flushed are neither acknowledged nor evicted.
func (q *Queue) Sync() error {
	if err := q.acquire(q.flushing); err != nil {
		return err
	}
	defer func() { <-q.flushing }()
	seq := q.highest()
	if err := q.syncTo(seq); err != nil {
		return err
	}
	if err := q.flushOld(); err != nil {
		return fmt.Errorf("flush older lines: %w: %w", ErrNotSynced, err)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.failedIn(q.marks.floor()+1, seq)
}

// flushOld flushes the segments that nobody flushed yet, even if an earlier process wrote them. The caller has flushing, as in all
// functions down to flush.
func (q *Queue) flushOld() error {
	q.mu.Lock()
	var old []*segment
	for _, s := range q.segs {
		if s.unflushed {
			old = append(old, s)
		}
	}
	q.mu.Unlock()
	if len(old) == 0 {
		return nil
	}
	for _, s := range old {
		if err := q.flushSegment(s.name); err != nil {
			return err
		}
	}
	if err := q.flushNames(); err != nil {
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, s := range old {
		s.unflushed = false
	}
	return nil
}

// flushSegment flushes a file that is not open; one that is gone meanwhile holds nothing that is needed.
func (q *Queue) flushSegment(name string) error {
	f, err := q.fs.Open(filepath.Join(q.dir, name), os.O_RDWR)
	if isNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// flushNames makes the names of the queue's files survive a power cut, and once those of its directory and of the ones above.
// Then the cursor goes first: segments without one would look as if it had been lost.
func (q *Queue) flushNames() error {
	if q.cursor.rooted {
		return q.fs.SyncDir(q.dir)
	}
	if err := errors.Join(q.cursor.f.Sync(), q.fs.SyncDir(q.dir)); err != nil {
		return err
	}
	dir := q.dir
	for range q.opts.Parents {
		dir = filepath.Dir(dir)
		if err := q.fs.SyncDir(dir); err != nil && !errors.Is(err, fs.ErrPermission) {
			return err
		}
	}
	q.cursor.rooted = true
	return nil
}

// syncTo returns when the lines up to seq are flushed.
func (q *Queue) syncTo(seq uint64) error {
	q.mu.Lock()
	due, upTo := q.flushed.upTo < seq, q.last
	q.mu.Unlock()
	if due {
		q.flush(upTo)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.failedIn(seq, seq)
}

// failedIn returns an error if one of the lines from first to last could not be flushed; mu is locked.
func (q *Queue) failedIn(first, last uint64) error {
	for _, s := range q.flushed.failed {
		if s.first <= last && first <= s.last {
			return fmt.Errorf("flush lines %d to %d: %w: %w", s.first, s.last, ErrNotSynced, q.flushed.failure)
		}
	}
	return nil
}

// flush flushes the lines up to upTo, which the open segment holds as far as they are not flushed.
func (q *Queue) flush(upTo uint64) {
	err := q.w.f.Sync()
	var nameless error
	if q.w.unnamed && err == nil {
		nameless = q.flushNames()
		q.w.unnamed = nameless != nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.counter.syncs++
	if nameless != nil { // the next flush tries again, and until then nothing is safe
		q.counter.syncErrors++
		q.noteFailed(span{q.flushed.upTo + 1, upTo}, nameless)
	}
	if err != nil {
		// The kernel may have dropped the pages, and a second flush would report success. So these lines stay unflushed for good,
		// and the file is not written to again. So do those that were written meanwhile: they may be in the same pages.
		q.counter.syncErrors++
		upTo = q.last
		q.noteFailed(span{q.flushed.upTo + 1, upTo}, err)
		q.flushed.seal = true
	}
	q.flushed.upTo = max(q.flushed.upTo, upTo)
}

// noteFailed notes lines that a failed flush left unflushed; mu is locked. Of very many ranges the oldest become one, and
// what lies between counts as unflushed as well.
func (q *Queue) noteFailed(lines span, err error) {
	f := &q.flushed
	f.failed, f.failure = addSpan(f.failed, lines), err
	if len(f.failed) > maxFailed {
		f.failed[1].first = f.failed[0].first
		f.failed = f.failed[1:]
	}
}

// arm starts the interval timer for the first line that is not flushed. mu is locked.
func (q *Queue) arm() {
	if q.opts.Sync.kind != syncInterval || q.flushed.armed {
		return
	}
	q.flushed.armed = true
	q.flushed.timers.Add(1)
	q.flushed.timer.Reset(q.opts.Sync.every)
}

func (q *Queue) onTimer() {
	defer q.flushed.timers.Done()
	if q.acquire(q.flushing) != nil {
		return // Close flushes
	}
	defer func() { <-q.flushing }()
	q.mu.Lock()
	q.flushed.armed = false
	seq := q.last
	q.mu.Unlock()
	_ = q.syncTo(seq) // counted in Stats; there is nobody to report it to
}

// stopTimer returns when no callback runs or will run. Nobody may append any more.
func (q *Queue) stopTimer() {
	if q.flushed.timer.Stop() {
		q.flushed.timers.Done()
	}
	q.flushed.timers.Wait()
}
