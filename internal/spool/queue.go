package spool

import (
	"cmp"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
)

// keepBuffer bounds the buffer that is kept for the next line; a host has many idle queues.
const keepBuffer = 8 << 10

// Queue is a durable queue of lines. All methods may be called at any time from any goroutine, and from OnLoss except for
// Close. They wait for the disk, never for one another's consumers.
//
// Two tokens order what goes to the disk: the holder of writing owns the end of the log, and the holder of flushing flushes, owns the
// cursor file and deletes files; a holder of the first may wait for the second. Which file is the end of the log changes under both.
// The mutex guards the memory they share and is never held across I/O, so that Stats never waits for a disk, and Read never for a
// writer.
type Queue struct {
	dir      string
	opts     Options
	fs       fileSystem
	writing  chan struct{} // token: full while somebody owns the end of the log
	flushing chan struct{} // token: full while somebody flushes or owns the cursor
	done     chan struct{} // closed by Close
	close    func() error  // shut, once

	w      writer // owned by the holder of writing, see there
	cursor cursor // owned by the holder of flushing

	mu      sync.Mutex
	segs    []*segment // oldest first
	total   int64      // bytes of segs
	last    uint64     // highest sequence number in use
	marks   marks
	holes   []span      // missing sequence numbers above the floor
	recent  [2]position // where the last batch began and ended
	trash   []string    // files that could not be deleted yet
	epoch   string      // set by Open
	share   *share      // of Options.Budget, set by Open
	low     bool        // the disk has less room than is to be left
	credit  int64       // bytes that were freed while it had, and not written yet
	unread  bool        // the newest segment cannot be read: go on in another, so that what comes can be
	counter counters
	flushed flushState
}

// writer is the end of the log. seg and f change under both tokens, so that the holder of either may read them.
type writer struct {
	seg *segment // nil until the first line after an unclean Open
	f   file     // of seg
	// unnamed means that a power cut could remove the file's name; it belongs to the holder of flushing. The first flush of the
	// file's lines flushes the name too, and not its creation, which osqueryd waits for.
	unnamed bool
	off     int64  // where the next record goes
	gen     uint64 // generation of the newest segment
	next    uint64 // sequence number of the next line
	buf     []byte // one encoded record
	broken  bool   // seg must not be written to again
}

// Dropped counts lines that were stored and will never be read.
type Dropped struct {
	Evicted uint64 // unacknowledged when MaxBytes forced them out; those in a batch under way may still be delivered
	Damaged uint64 // found unreadable after Open
}

// Stats is a view of a queue. Depths are of now, counts since Open.
type Stats struct {
	Records       uint64 // unacknowledged lines
	Bytes         int64  // size of the segment files, which is what MaxBytes bounds
	Segments      int    // number of segment files
	Acked         uint64 // every line up to this sequence number is acknowledged
	Evicted       uint64 // no line up to this sequence number is kept: it was evicted, or acknowledged before; 0 if none was
	Pinned        uint64 // last sequence number of the pinned batch; 0 if none, or if nothing of it is left to read
	Last          uint64 // highest sequence number in use; 0 if none ever was
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

func (q *Queue) highest() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.last
}

// acquire waits for a token; ErrClosed if the queue is closed.
func (q *Queue) acquire(token chan struct{}) error {
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

// announce calls OnLoss; no lock and no token may be held.
func (q *Queue) announce(losses []Loss) {
	for _, l := range losses {
		q.opts.OnLoss(l)
	}
}

// Close flushes what the policy flushes, and closes the files. It waits for calls that are under way; later calls of any
// method return ErrClosed. The second Close returns what the first did.
func (q *Queue) Close() error { return q.close() }

// shut keeps both tokens for good.
func (q *Queue) shut() error {
	close(q.done)
	q.writing <- struct{}{}
	q.flushing <- struct{}{}
	q.stopTimer()
	var errs []error
	if q.opts.Sync.kind != syncNever {
		errs = append(errs, q.syncTo(q.highest()))
	}
	if q.w.f != nil {
		errs = append(errs, q.w.f.Close())
	}
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

// forget drops what is known of lines that are not needed any more; mu is locked.
func (q *Queue) forget() {
	q.holes = dropSpans(q.holes, q.marks.floor())
	q.flushed.failed = dropSpans(q.flushed.failed, q.marks.floor())
}

// used reports whether the queue ever had a line. A cursor that knows of none is not worth a flush: Open makes the same one anew.
func (q *Queue) used() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.last > 0 || q.marks.highest() > 0 || len(q.segs) > 0
}

// discard deletes segment files that are no longer in q.segs, and those that could not be deleted before. The caller has flushing.
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
	q.mu.Lock()
	defer q.mu.Unlock()
	q.trash = left
}

// Append adds line, which it does not keep, and returns its sequence number. When it returns without an error the line is in
// the file and survives kill -9 of the process; under SyncEach it is flushed too. It makes one write, waits for other
// appends and the disk and never for readers, and allocates nothing for lines up to 8 KiB.
//
// With ErrTooLarge, ErrNoSpace, ErrFull, ErrIO or ErrClosed nothing was stored and the number is 0; the queue has repaired itself and
// the next Append may work. With ErrNotSynced the line is stored under the number returned, and not flushed. OnLoss is not called for
// lines that are refused.
func (q *Queue) Append(line []byte) (uint64, error) {
	if len(line) > q.opts.MaxRecord {
		return 0, fmt.Errorf("append line of %d bytes, limit %d: %w", len(line), q.opts.MaxRecord, ErrTooLarge)
	}
	if err := q.acquire(q.writing); err != nil {
		return 0, err
	}
	losses, err := q.makeRoom(int64(headerSize + len(line)))
	var seq uint64
	if err == nil {
		seq, err = q.write(line)
	}
	if err == nil && q.opts.Sync.kind == syncEach {
		q.flushing <- struct{}{} // Close does not hold it while somebody has writing
		err = q.syncTo(seq)
		<-q.flushing
	}
	<-q.writing
	q.announce(losses)
	return seq, err
}

// write adds one record at the end. The caller has writing, as in all functions down to evict.
func (q *Queue) write(line []byte) (uint64, error) {
	w := &q.w
	w.buf = appendRecord(w.buf[:0], w.seg.salt, w.next, line)
	size := int64(len(w.buf))
	_, err := w.f.WriteAt(w.buf, w.off)
	if cap(w.buf) > keepBuffer {
		w.buf = nil
	}
	if err != nil {
		// What was written of it must not be taken for a record later.
		if w.f.Truncate(w.off) != nil {
			w.broken = true
		}
		return 0, typed("append line", err)
	}
	seq := w.next
	w.next++
	w.off += size
	q.commit(seq, size, len(line))
	return seq, nil
}

// commit lets readers see the record.
func (q *Queue) commit(seq uint64, size int64, length int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	s := q.w.seg
	s.last, s.end, s.bytes = seq, s.end+size, s.bytes+size
	q.last = seq
	q.grow(size)
	q.counter.appended++
	q.counter.appendedBytes += uint64(length)
	if f := &q.flushed; f.seal { // a flush failed while it was being written
		f.failed, f.upTo = addSpan(f.failed, span{seq, seq}), seq
	}
	q.arm()
}

// makeRoom makes sure that a record of size bytes may be written at the end, and returns what was lost by it.
func (q *Queue) makeRoom(size int64) ([]Loss, error) {
	over := q.tooMuch(size)
	q.mu.Lock()
	if over && q.opts.Full == RefuseNewest && q.last > q.marks.floor() {
		q.mu.Unlock()
		return nil, errFull()
	}
	broken := q.w.broken || q.w.seg == nil || q.flushed.seal
	alone := over && len(q.segs) == 1 && q.segs[0].bytes > 0 // the newest is never deleted
	full := alone || q.unread || q.w.off+size > q.opts.SegmentBytes
	q.mu.Unlock()
	var stuck error
	if broken || full {
		// If the disk refuses a new segment, the old one may grow: within MaxBytes, that loses less than refusing the line.
		if stuck = q.rotate(); stuck != nil && broken {
			return nil, stuck
		}
	}
	if !over {
		return nil, nil
	}
	return q.evict(size, stuck)
}

// rotate starts a new segment.
func (q *Queue) rotate() error {
	q.flushing <- struct{}{}
	defer func() { <-q.flushing }()
	w := &q.w
	if w.f != nil && q.opts.Sync.kind != syncNever {
		_ = q.syncTo(w.next - 1) // counted; and the lines are stored
	}
	var salt [4]byte
	_, _ = rand.Read(salt[:]) // never fails
	s := newSegment(w.gen+1, w.next, binary.LittleEndian.Uint32(salt[:]))
	f, err := q.fs.Open(filepath.Join(q.dir, s.name), os.O_RDWR|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return typed("create spool segment", err)
	}
	if w.f != nil {
		_ = w.f.Close() // all of it is flushed, or known not to be
	}
	w.gen++
	w.seg, w.f, w.unnamed, w.off, w.broken = s, f, true, 0, false
	if empty := q.addSegment(s); empty != "" {
		q.discard([]string{empty})
	}
	return nil
}

// addSegment adds s to the list, without its predecessor if that is empty and bounds nothing that s does not: its name is returned.
func (q *Queue) addSegment(s *segment) (empty string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if n := len(q.segs); n > 0 && q.segs[n-1].end == 0 && q.segs[n-1].first == s.first {
		empty = q.segs[n-1].name
		q.grow(-q.segs[n-1].bytes)
		q.segs = q.segs[:n-1]
	}
	if n := len(q.segs); n > 0 && q.segs[n-1].last > q.flushed.upTo {
		q.segs[n-1].unflushed = true
	}
	q.segs = append(q.segs, s)
	q.flushed.seal, q.unread = false, false
	return empty
}

// evict deletes the oldest segments until size bytes fit. If the last one is in the way, stuck is why no other could be made.
func (q *Queue) evict(size int64, stuck error) ([]Loss, error) {
	var losses []Loss
	var names []string
	q.mu.Lock()
	m := q.marks
	for len(q.segs) > 1 && q.over(size) {
		l := q.popOldest(&names)
		m.evicted = max(m.evicted, l.Last)
		if l.Records > 0 {
			losses = append(losses, l)
		}
	}
	full, bound := q.over(size), q.total+size <= q.opts.MaxBytes
	q.mu.Unlock()
	if len(names) > 0 {
		q.finishEviction(m.evicted, names)
	}
	if full && bound {
		return losses, errFull()
	}
	if full {
		return losses, fmt.Errorf("append line: the last segment is full: %w", cmp.Or(stuck, ErrIO))
	}
	return losses, nil
}

// popOldest removes the oldest segment from the list; mu is locked.
func (q *Queue) popOldest(names *[]string) Loss {
	s, last := q.segs[0], q.segs[1].first-1
	first := max(s.first, q.marks.floor()+1)
	l := Loss{Reason: Evicted, First: first, Last: last, Bytes: s.bytes}
	if first <= last {
		l.Records = last - first + 1 - countIn(q.holes, first, last)
	}
	q.counter.dropped.Evicted += l.Records
	q.marks.evicted = max(q.marks.evicted, last)
	q.forget()
	q.segs = q.segs[1:]
	q.grow(-s.bytes)
	*names = append(*names, s.name)
	return l
}

// finishEviction deletes files, after it wrote to the cursor what is announced. Without that, the next Open would report their lines
// as damaged: no reason to refuse a line.
func (q *Queue) finishEviction(seq uint64, names []string) {
	q.flushing <- struct{}{}
	defer func() { <-q.flushing }()
	m := q.cursor.marks
	m.evicted = max(m.evicted, seq)
	if q.cursor.save(m) == nil {
		_ = q.flushCursor()
	}
	q.discard(names)
}

func isNotExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }
