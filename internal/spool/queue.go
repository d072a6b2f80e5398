package spool

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"
)

// Queue is a durable queue of lines. All methods may be called at any time from any goroutine, and from OnLoss except for
// Close. They wait for the disk, never for one another's consumers.
//
// Two tokens order what goes to the disk: who has the tail token owns the end of the log, and who has the cursor token owns the
// cursor file; a holder of the first may take the second. The mutex guards the memory they share and is never held across I/O,
// so that Stats never waits for a disk, and Read never for a writer.
type Queue struct {
	dir        string
	opts       Options
	fs         fileSystem
	tail       chan struct{} // token: full while somebody owns the end of the log
	cursorTurn chan struct{} // token: full while somebody owns the cursor
	done       chan struct{} // closed by Close
	notify     chan struct{}
	closeOnce  sync.Once
	closeErr   error

	w      writer // owned by the tail token
	cursor cursor // owned by the cursor token

	mu      sync.Mutex
	segs    []*segment // oldest first
	total   int64      // bytes of segs
	last    uint64     // last sequence number given out
	marks   marks
	holes   []span   // missing sequence numbers above the floor
	spots   [2]spot  // where the last batch began and ended
	trash   []string // files that could not be deleted yet
	epoch   string   // set by Open
	share   *share   // of Options.Budget, set by Open
	low     bool     // the disk has less room than is to be left
	credit  int64    // bytes that were freed while it had, and not written yet
	unread  bool     // the newest segment cannot be read: go on in another, so that what comes can be
	counter counters
	syncState
}

// writer is the end of the log.
type writer struct {
	seg    *segment  // nil until the first line after an unclean Open
	t      *tailFile // open file of seg
	off    int64     // where the next record goes
	gen    uint64    // generation of the newest segment
	next   uint64    // sequence number of the next line
	buf    []byte    // one encoded record
	broken bool      // seg must not be written to again
}

// floor is the number up to which nobody will read.
func (m marks) floor() uint64 { return max(m.acked, m.evicted) }

// Dropped counts lines that will never be read.
type Dropped struct {
	Evicted  uint64 // unacknowledged when MaxBytes forced them out; those in a batch under way may still be delivered
	Damaged  uint64 // found unreadable after Open
	TooLarge uint64 // refused: above MaxRecord
	NoSpace  uint64 // refused: disk or quota full, or the queue may not grow
	Failed   uint64 // refused: another failure of the disk
}

// Stats is a view of a queue. Depths are of now, counts since Open.
type Stats struct {
	Records       uint64 // unacknowledged lines
	Bytes         int64  // size of the segment files, which is what MaxBytes bounds
	Segments      int    // number of segment files
	Acked         uint64 // every line up to this sequence number is acknowledged
	Evicted       uint64 // no line up to this sequence number is kept: it was evicted, or acknowledged before; 0 if none was
	Pinned        uint64 // last sequence number of the pinned batch; 0 if none, or if nothing of it is left to read
	Last          uint64 // last sequence number given out; 0 if none ever was
	Epoch         string // what the numbers count in: 32 hexadecimal digits, see the package's documentation
	Appended      uint64 // lines
	AppendedBytes uint64 // bytes of those lines, without headers
	Dropped       Dropped
	Syncs         uint64 // flushes of segments
	SyncErrors    uint64 // flushes that failed
}

type counters struct {
	appended, appendedBytes uint64
	dropped                 Dropped
	syncs, syncErrors       uint64
}

// Stats returns the present state. It never waits for the disk and allocates nothing. After Close it returns the last state.
func (q *Queue) Stats() Stats {
	q.mu.Lock()
	defer q.mu.Unlock()
	floor := q.marks.floor()
	return Stats{
		Records: q.last - floor - countIn(q.holes, floor+1, q.last),
		Bytes:   q.total, Segments: len(q.segs),
		Acked: q.marks.acked, Evicted: q.marks.evicted, Pinned: q.marks.pin(), Last: q.last, Epoch: q.epoch,
		Appended: q.counter.appended, AppendedBytes: q.counter.appendedBytes,
		Dropped: q.counter.dropped, Syncs: q.counter.syncs, SyncErrors: q.counter.syncErrors,
	}
}

// Notify returns a channel that holds a value when lines may have come since the last receive, and after Open when there is
// something to read. It is never closed. One receiver is woken for any number of lines.
func (q *Queue) Notify() <-chan struct{} { return q.notify }

func (q *Queue) wake() {
	select {
	case q.notify <- struct{}{}:
	default:
	}
}

// take gets a token, or ErrClosed.
func (q *Queue) take(token chan struct{}) error {
	select {
	case token <- struct{}{}:
	case <-q.done:
		return ErrClosed
	}
	if q.isClosed() {
		<-token
		return ErrClosed
	}
	return nil
}

func (q *Queue) isClosed() bool {
	select {
	case <-q.done:
		return true
	default:
		return false
	}
}

// announce tells of losses; no lock and no token may be held.
func (q *Queue) announce(losses []Loss) {
	for _, l := range losses {
		q.opts.OnLoss(l)
	}
}

// Close flushes what the policy flushes, and closes the files. It waits for appends that are under way; later calls of any
// method return ErrClosed. The second Close returns what the first did.
func (q *Queue) Close() error {
	q.closeOnce.Do(func() { q.closeErr = q.shut() })
	return q.closeErr
}

// shut takes both tokens for good.
func (q *Queue) shut() error {
	close(q.done)
	q.tail <- struct{}{}
	q.stopTimer()
	var errs []error
	if q.opts.Sync.kind != syncNever {
		errs = append(errs, q.syncTo(q.w.next-1))
	}
	if q.w.t != nil {
		errs = append(errs, q.release(q.w.t))
	}
	q.cursorTurn <- struct{}{}
	if q.opts.Sync.kind != syncNever && q.used() {
		errs = append(errs, q.flushCursor())
	}
	q.share.close()
	errs = append(errs, q.cursor.f.Close())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close spool %s: %w", q.dir, err)
	}
	return nil
}

// forget drops what is known of lines that nobody wants any more; mu is locked.
func (q *Queue) forget() {
	q.holes = dropSpans(q.holes, q.marks.floor())
	q.failed = dropSpans(q.failed, q.marks.floor())
}

// used says whether a line was ever given to the queue. A cursor that tells of none is not worth a flush: Open makes
// the same one anew.
func (q *Queue) used() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.last > 0 || q.marks.highest() > 0 || len(q.segs) > 0
}

// discard deletes segment files that are no longer in q.segs, and those that could not be deleted before.
func (q *Queue) discard(names []string) {
	q.mu.Lock()
	names, q.trash = append(names, q.trash...), nil
	q.mu.Unlock()
	var left []string
	for _, n := range names {
		if err := q.fs.Remove(filepath.Join(q.dir, n)); err != nil && !isNotExist(err) {
			left = append(left, n)
		}
	}
	if len(left) > 0 {
		q.mu.Lock()
		q.trash = append(q.trash, left...)
		q.mu.Unlock()
	}
}

// syncState is guarded by Queue.mu.
type syncState struct {
	synced   uint64    // lines up to here need no flush: it was done, or failed for good
	syncing  bool      // a flush is under way
	out      *tailFile // what to flush: the file that holds all lines that are not
	seal     bool      // a flush failed: go on in another segment
	rooted   bool      // the names of the directories are flushed
	syncDone sync.Cond // a flush ended
	group    [2]uint64 // lines that the last two flushes served
	failed   []span    // lines above the floor that a failed flush left unflushed for good
	failure  error     // of the last such flush
	armed    bool      // the interval timer runs
	timer    *time.Timer
	timers   sync.WaitGroup // armed timers, until their callback is over
}
