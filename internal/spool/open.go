package spool

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"time"
)

// Open opens the queue in dir, creates it if it is not there, and repairs it if it is damaged. It reads everything that is not
// acknowledged once, at about the speed of the disk. It fails when the options are wrong, when the directory cannot be made
// or locked (ErrLocked), when the cursor cannot be opened, or when the host is out of descriptors or memory, since what cannot be
// looked at now is not damaged; never because of what the files hold.
func Open(dir string, o Options) (*Queue, Recovery, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, Recovery{}, fmt.Errorf("open spool %s: %w", dir, err)
	}
	if err := o.fs.MakeDir(dir); err != nil {
		return nil, Recovery{}, fmt.Errorf("open spool %s: make directory: %w", dir, err)
	}
	lock, err := o.fs.OpenLocked(filepath.Join(dir, cursorName))
	if err != nil {
		return nil, Recovery{}, fmt.Errorf("open spool %s: %w", dir, err)
	}
	q := newQueue(dir, o)
	rep, err := q.load(lock)
	if err != nil {
		return nil, Recovery{}, errors.Join(fmt.Errorf("open spool %s: %w", dir, err), lock.Close())
	}
	if rep.Records > 0 || rep.Missing > 0 {
		q.wake()
	}
	return q, rep, nil
}

func newQueue(dir string, o Options) *Queue {
	q := &Queue{
		dir: dir, opts: o, fs: o.fs,
		tail: make(chan struct{}, 1), cursorTurn: make(chan struct{}, 1),
		done: make(chan struct{}), notify: make(chan struct{}, 1),
	}
	q.syncDone.L = &q.mu
	// Armed and stopped, so that a line only has to reset it.
	q.timer = time.AfterFunc(math.MaxInt64, q.onTimer)
	q.timer.Stop()
	return q
}

// load runs before anybody else has q.
func (q *Queue) load(lock file) (Recovery, error) {
	c, found, err := loadCursor(lock)
	if err != nil {
		return Recovery{}, fmt.Errorf("read cursor: %w", err)
	}
	names, err := q.fs.List(q.dir)
	if err != nil {
		return Recovery{}, fmt.Errorf("list segments: %w", err)
	}
	segs := segmentsOf(names)
	lost := c.doubt || !found && (len(segs) > 0 || !c.blank())
	if !found || c.doubt {
		c.begin(found, segs)
	}
	q.cursor, q.marks, q.epoch, q.rooted = c, c.marks, c.epoch.String(), c.rooted
	rep, err := q.recover(segs)
	if err != nil {
		return Recovery{}, err
	}
	rep.CursorLost = lost
	return rep, nil
}

// begin begins an epoch, because there was none or nothing shows that the numbers go on where it ended. Without a cursor, what
// is before the first segment counts as delivered, or evicted and announced. That the marks are written at once, to both
// slots, lets the next Open tell a log whose beginning was deleted from one that nobody acknowledged yet.
func (c *cursor) begin(found bool, segs []*segment) {
	m := c.marks
	if !found && len(segs) > 0 {
		m.evicted = segs[0].first - 1
	}
	c.epoch = newEpoch()
	_ = c.save(m) // a full disk is not a reason to refuse to open
	if !found {
		c.turn++
		b := c.slot(c.turn, c.marks)
		_, _ = c.f.WriteAt(b[:], int64(c.turn%2)*slotStride)
	}
	c.marks = m
}

func segmentsOf(names []string) []*segment {
	var segs []*segment
	for _, n := range names {
		if s := parseSegment(n); s != nil {
			segs = append(segs, s)
		}
	}
	sortSegments(segs)
	return segs
}

func (q *Queue) recover(segs []*segment) (Recovery, error) {
	floor := q.marks.floor()
	r := newRecovery(q.fs, q.dir, floor, q.opts.SegmentBytes)
	var old []string
	for i, s := range segs {
		q.w.gen = max(q.w.gen, s.gen)
		before := firstOf(segs[i+1:])
		if before <= floor+1 {
			old = append(old, s.name)
			continue
		}
		whole, err := r.scan(s, before)
		if err != nil {
			return Recovery{}, err
		}
		if i == len(segs)-1 {
			q.continueIn(r, s, whole)
		}
		s.unflushed = true
		q.segs = append(q.segs, s)
		q.total += s.bytes
	}
	r.finish(q.marks)
	q.holes, q.last, q.w.next = r.holes, r.rep.Next-1, r.rep.Next
	if q.w.seg != nil && q.w.seg.last+1 != q.w.next {
		q.w.broken = true // a segment's numbers go on without a gap: start another one
	}
	q.synced = q.last
	q.share = q.opts.Budget.join(q.dir, q.total)
	q.settle(old)
	return r.rep, nil
}

// settle writes down what Open found out, before the next Open could find something else: numbers that were given out and
// are not in the log any more, and segments that nobody wants.
func (q *Queue) settle(old []string) {
	if q.w.broken {
		m := q.marks
		m.seen = max(m.seen, q.last)
		if q.cursor.save(m) == nil {
			q.marks = q.cursor.marks
		}
	}
	if len(old) > 0 {
		_ = q.flushCursor() // at worst, a false report
	}
	q.discard(old)
}

// firstOf returns the sequence number that bounds what comes before segs.
func firstOf(segs []*segment) uint64 {
	first := uint64(maxSeq)
	for _, s := range segs {
		first = min(first, s.first)
	}
	return first
}

// continueIn cuts the torn end off the last segment and makes it the one that is written to, if the disk allows; if not, the
// next line starts a new one.
func (q *Queue) continueIn(r *recovery, s *segment, whole bool) {
	if !whole {
		r.reserve(s)
		return
	}
	r.cutTail(s)
	f, err := q.fs.Open(filepath.Join(q.dir, s.name), os.O_RDWR)
	if err != nil {
		q.distrust(s, err)
		return
	}
	if err := q.mend(f, s); err != nil {
		q.distrust(s, err)
		_ = f.Close()
		return
	}
	q.w.seg, q.w.off, q.w.t = s, s.end, &tailFile{f: f, refs: 1, unnamed: !q.rooted}
	q.out = q.w.t
	q.w.broken = s.holed // what more bytes would make of the damage is not to be found out
}

// distrust notes that the lines of s could not be flushed.
func (q *Queue) distrust(s *segment, err error) {
	if s.last >= s.first && q.opts.Sync.kind != syncNever {
		q.noteFailed(span{s.first, s.last}, err)
	}
}

// mend also flushes what an earlier process may not have: the end of the log, and its name.
func (q *Queue) mend(f file, s *segment) error {
	if s.end < s.bytes {
		if err := f.Truncate(s.end); err != nil {
			return err
		}
		s.bytes = s.end
	}
	if q.opts.Sync.kind == syncNever {
		return nil
	}
	if err := errors.Join(f.Sync(), q.flushNames()); err != nil {
		return err
	}
	s.unflushed = false
	return nil
}
