package spool

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
)

// maxYields bounds how often a flush makes way for writers; together a few microseconds, where a flush takes a hundred.
const maxYields = 32

// tailFile is the open file at the end of the log. refs, guarded by Queue.mu, keeps it open while it is flushed.
type tailFile struct {
	f    file
	refs int
	// unnamed, guarded likewise, means that a power cut could take the file's name away. The first flush of its lines flushes
	// the name too, and not its creation, which osqueryd waits for.
	unnamed bool
}

// release gives up one reference; the last one closes the file.
func (q *Queue) release(t *tailFile) error {
	q.mu.Lock()
	t.refs--
	last := t.refs == 0
	q.mu.Unlock()
	if last {
		return t.f.Close()
	}
	return nil
}

// Sync flushes all lines appended so far, whatever the policy, and returns when they survive a power cut. The error is
// ErrNotSynced; it comes again while lines that could not be flushed are neither acknowledged nor evicted.
func (q *Queue) Sync() error {
	if q.isClosed() {
		return ErrClosed
	}
	q.mu.Lock()
	seq := q.last
	q.mu.Unlock()
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

// flushOld flushes the segments that nobody flushed yet, be it that an earlier process wrote them.
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

// flushSegment flushes a file that is not open; one that is gone meanwhile holds nothing that anybody wants.
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
	q.mu.Lock()
	rooted := q.rooted
	q.mu.Unlock()
	if rooted {
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
	q.mu.Lock()
	defer q.mu.Unlock()
	q.rooted = true
	return nil
}

// syncTo returns when the lines up to seq are flushed. One flush serves all that wait: who finds none under way does it for
// everything written by then.
func (q *Queue) syncTo(seq uint64) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.synced < seq {
		if q.syncing {
			q.syncDone.Wait()
			continue
		}
		if q.out.refs == 0 {
			return ErrClosed
		}
		q.flush()
	}
	return q.failedIn(seq, seq)
}

// failedIn returns an error if one of the lines from first to last could not be flushed; mu is locked.
func (q *Queue) failedIn(first, last uint64) error {
	for _, s := range q.failed {
		if s.first <= last && first <= s.last {
			return fmt.Errorf("flush lines %d to %d: %w: %w", s.first, s.last, ErrNotSynced, q.failure)
		}
	}
	return nil
}

// flush is called with mu locked, and unlocks it meanwhile.
func (q *Queue) flush() {
	q.syncing = true
	q.gather()
	upTo, t := q.last, q.out
	t.refs++
	unnamed := t.unnamed
	q.mu.Unlock()
	err := t.f.Sync()
	var nameless error
	if unnamed && err == nil {
		nameless = q.flushNames()
	}
	_ = q.release(t) // the flush has shown whether the lines are safe
	q.mu.Lock()
	q.syncing = false
	t.unnamed = unnamed && (err != nil || nameless != nil)
	q.counter.syncs++
	if nameless != nil { // the next flush tries again, and until then nothing is safe
		q.counter.syncErrors++
		q.noteFailed(span{q.synced + 1, upTo}, nameless)
	}
	if err != nil {
		// The kernel may have dropped the pages, and a second flush would say that all is well. So these lines stay
		// unflushed for good, and the file is not written to again. So do those that were written meanwhile: they may be in
		// the same pages.
		q.counter.syncErrors++
		upTo = q.last
		q.noteFailed(span{q.synced + 1, upTo}, err)
		q.seal = true
	}
	q.group, q.synced = [2]uint64{q.group[1], upTo - min(upTo, q.synced)}, max(q.synced, upTo)
	q.syncDone.Broadcast()
}

// maxFailed bounds the list of lines that could not be flushed.
const maxFailed = 64

// noteFailed notes lines that a failed flush left unflushed; mu is locked. Of very many ranges the oldest become one, and
// what lies between counts as unflushed as well.
func (q *Queue) noteFailed(lines span, err error) {
	q.failed, q.failure = addSpan(q.failed, lines), err
	if len(q.failed) > maxFailed {
		q.failed[1].first = q.failed[0].first
		q.failed = q.failed[1:]
	}
}

// gather lets the writers that the flush before has set free write their next lines first. Without it they fall into two
// groups that take turns. A lone writer does not wait. mu is locked, and unlocked meanwhile.
func (q *Queue) gather() {
	expect := max(q.group[0], q.group[1])
	if q.opts.Sync.kind != syncEach {
		return
	}
	for i := 0; i < maxYields && q.last-q.synced < expect; i++ {
		q.mu.Unlock()
		runtime.Gosched()
		q.mu.Lock()
	}
}

// arm starts the interval timer for the first line that is not flushed. mu is locked.
func (q *Queue) arm() {
	if q.opts.Sync.kind != syncInterval || q.armed {
		return
	}
	q.armed = true
	q.timers.Add(1)
	q.timer.Reset(q.opts.Sync.every)
}

func (q *Queue) onTimer() {
	defer q.timers.Done()
	q.mu.Lock()
	q.armed = false
	seq := q.last
	q.mu.Unlock()
	_ = q.syncTo(seq) // counted in Stats; there is nobody to tell
}

// stopTimer returns when no callback runs or will run. Nobody may append any more.
func (q *Queue) stopTimer() {
	if q.timer.Stop() {
		q.timers.Done()
	}
	q.timers.Wait()
}
