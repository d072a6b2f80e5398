package spool

import (
	"fmt"
	"runtime"
)

// maxYields bounds how often a flush makes way for writers; together a few microseconds, where a flush takes a hundred.
const maxYields = 32

// tailFile is the open file at the end of the log. refs, guarded by Queue.mu, keeps it open while it is flushed.
type tailFile struct {
	f    file
	refs int
	// unnamed, guarded likewise, says that a power cut could take the file's name away. The first flush of its lines flushes
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

// Sync flushes all lines appended so far, whatever the policy, and returns when they survive a power cut. Under SyncNever it
// flushes the newest segment only. The error is ErrNotSynced.
func (q *Queue) Sync() error {
	if q.isClosed() {
		return ErrClosed
	}
	q.mu.Lock()
	seq := q.last
	q.mu.Unlock()
	return q.syncTo(seq)
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
	if q.failure != nil && q.failed.first <= seq && seq <= q.failed.last {
		return fmt.Errorf("flush lines %d to %d: %w: %w", q.failed.first, q.failed.last, ErrNotSynced, q.failure)
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
	if unnamed {
		_ = q.fs.SyncDir(q.dir) // not every file system can
	}
	_ = q.release(t) // the flush has said whether the lines are safe
	q.mu.Lock()
	q.syncing, t.unnamed = false, false
	q.counter.syncs++
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

// noteFailed goes on with the lines of the flush before if that failed too: who waits for them may not have looked yet.
func (q *Queue) noteFailed(lines span, err error) {
	if q.failure != nil && q.failed.last+1 == lines.first {
		lines.first = q.failed.first
	}
	q.failed, q.failure = lines, err
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
