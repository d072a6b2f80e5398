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
)

// keepBuffer bounds the buffer that is kept for the next line; a host has many idle queues.
const keepBuffer = 8 << 10

// Append adds line, which it does not keep, and returns its sequence number. When it returns without an error the line is in
// the file and survives kill -9 of the process; under SyncEach it is flushed too. It makes one write, waits for other
// appends and the disk and never for readers, and allocates nothing for lines up to 8 KiB.
//
// With ErrTooLarge, ErrNoSpace, ErrFull, ErrIO or ErrClosed nothing was stored and the number is 0; the queue has repaired itself and
// the next Append may work. With ErrNotSynced the line is stored under the number returned, and not flushed. Lines refused
// are counted in Stats and not given to OnLoss.
func (q *Queue) Append(line []byte) (uint64, error) {
	if len(line) > q.opts.MaxRecord {
		return 0, q.refused(fmt.Errorf("append line of %d bytes, limit %d: %w", len(line), q.opts.MaxRecord, ErrTooLarge))
	}
	if err := q.take(q.tail); err != nil {
		return 0, err
	}
	losses, err := q.makeRoom(int64(headerSize + len(line)))
	var seq uint64
	if err == nil {
		seq, err = q.write(line)
	}
	<-q.tail
	q.announce(losses)
	if err != nil {
		return 0, q.refused(err)
	}
	q.wake()
	if q.opts.Sync.kind == syncEach {
		return seq, q.syncTo(seq)
	}
	return seq, nil
}

// refused counts a line that was not stored.
func (q *Queue) refused(err error) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case errors.Is(err, ErrTooLarge):
		q.counter.dropped.TooLarge++
	case errors.Is(err, ErrNoSpace), errors.Is(err, ErrFull):
		q.counter.dropped.NoSpace++
	default:
		q.counter.dropped.Failed++
	}
	return err
}

// write adds one record at the end. The caller has the tail token, as in all functions below.
func (q *Queue) write(line []byte) (uint64, error) {
	w := &q.w
	w.buf = appendRecord(w.buf[:0], w.seg.salt, w.next, line)
	size := int64(len(w.buf))
	_, err := w.t.f.WriteAt(w.buf, w.off)
	if cap(w.buf) > keepBuffer {
		w.buf = nil
	}
	if err != nil {
		// What was written of it must not be taken for a record later.
		if w.t.f.Truncate(w.off) != nil {
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
	if q.seal { // a flush failed while it was being written
		q.failed, q.synced = addSpan(q.failed, span{seq, seq}), seq
	}
	q.arm()
}

// makeRoom sees to it that a record of size bytes may be written at the end, and returns what that cost.
func (q *Queue) makeRoom(size int64) ([]Loss, error) {
	over := q.tooMuch(size)
	q.mu.Lock()
	if over && q.opts.Full == RefuseNewest && q.last > q.marks.floor() {
		q.mu.Unlock()
		return nil, q.full()
	}
	broken := q.w.broken || q.w.seg == nil || q.seal
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
	w := &q.w
	if w.t != nil && q.opts.Sync.kind != syncNever {
		_ = q.syncTo(w.next - 1) // counted; and the lines are stored
	}
	var salt [4]byte
	_, _ = rand.Read(salt[:]) // never fails
	s := newSegment(w.gen+1, w.next, binary.LittleEndian.Uint32(salt[:]))
	f, err := q.fs.Open(filepath.Join(q.dir, s.name), os.O_RDWR|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return typed("create spool segment", err)
	}
	w.gen++
	q.switchTo(s, &tailFile{f: f, refs: 1, unnamed: true})
	return nil
}

// switchTo makes s the end of the log, and drops its predecessor if that is empty and bounds nothing that s does not.
func (q *Queue) switchTo(s *segment, t *tailFile) {
	var empty []string
	old := q.w.t
	q.mu.Lock()
	if n := len(q.segs); n > 0 && q.segs[n-1].end == 0 && q.segs[n-1].first == s.first {
		empty = append(empty, q.segs[n-1].name)
		q.grow(-q.segs[n-1].bytes)
		q.segs = q.segs[:n-1]
	}
	if n := len(q.segs); n > 0 && q.segs[n-1].last > q.synced {
		q.segs[n-1].unflushed = true
	}
	q.segs = append(q.segs, s)
	q.out, q.seal, q.unread = t, false, false
	q.mu.Unlock()
	q.w.seg, q.w.t, q.w.off, q.w.broken = s, t, 0, false
	if old != nil {
		_ = q.release(old) // all of it is flushed, or known not to be
	}
	if len(empty) > 0 {
		q.discard(empty)
	}
}

// evict deletes the oldest segments until size bytes fit. If the last one is in the way, stuck says why no other could be made.
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
		q.keepEvicted(m.evicted)
		q.discard(names)
	}
	if full && bound {
		return losses, q.full()
	}
	if full {
		return losses, fmt.Errorf("append line: the last segment is full: %w", cmp.Or(stuck, ErrIO))
	}
	return losses, nil
}

// popOldest takes the oldest segment out of the list; mu is locked.
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

// keepEvicted notes on disk what was announced. Without it, these lines would be reported as damaged by the next Open: no
// reason to refuse a line.
func (q *Queue) keepEvicted(seq uint64) {
	if q.take(q.cursorTurn) != nil {
		return
	}
	defer func() { <-q.cursorTurn }()
	m := q.cursor.marks
	m.evicted = max(m.evicted, seq)
	if q.cursor.save(m) == nil {
		_ = q.flushCursor()
	}
}

func isNotExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }
