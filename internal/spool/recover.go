package spool

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"sync"
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
	return q, rep, nil
}

func newQueue(dir string, o Options) *Queue {
	q := &Queue{
		dir: dir, opts: o, fs: o.fs,
		writing: make(chan struct{}, 1), flushing: make(chan struct{}, 1), done: make(chan struct{}),
	}
	q.close = sync.OnceValue(q.shut)
	// Armed and stopped, so that a line only has to reset it.
	q.flushed.timer = time.AfterFunc(math.MaxInt64, q.onTimer)
	q.flushed.timer.Stop()
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
	q.cursor, q.marks, q.epoch = c, c.marks, c.epoch.String()
	rep, err := q.recover(segs)
	if err != nil {
		return Recovery{}, err
	}
	rep.CursorLost = lost
	return rep, nil
}

// begin begins an epoch, because there was none or nothing shows that the numbers go on where it ended. Without a cursor, what
// is before the first segment counts as delivered, or evicted and announced. That the marks are written at once, to both
// slots, lets the next Open distinguish a log whose beginning was deleted from one of which nothing is acknowledged yet.
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
	q.flushed.upTo = q.last
	q.share = q.opts.Budget.join(q.dir, q.total)
	q.saveFindings(old)
	return r.rep, nil
}

// saveFindings stores what Open found, before the next Open could find something else: numbers that were in use and
// are not in the log any more, and segments that are not needed.
func (q *Queue) saveFindings(old []string) {
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
	if err := q.repair(f, s); err != nil {
		q.distrust(s, err)
		_ = f.Close()
		return
	}
	q.w.seg, q.w.f, q.w.off, q.w.unnamed = s, f, s.end, !q.cursor.rooted
	q.w.broken = s.holed // what more bytes would make of the damage is not to be found out
}

// distrust notes that the lines of s could not be flushed.
func (q *Queue) distrust(s *segment, err error) {
	if s.last >= s.first && q.opts.Sync.kind != syncNever {
		q.noteFailed(span{s.first, s.last}, err)
	}
}

// repair cuts off a torn end, and flushes what an earlier process may not have: the end of the log, and its name.
func (q *Queue) repair(f file, s *segment) error {
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

// maxDamages bounds Recovery.Damaged; the sums count every range.
const maxDamages = 128

// Damage is one range of the log that could not be read, or that should be there and is not.
type Damage struct {
	Segment string // file name within the directory; "" when no file is left
	Offset  int64  // bytes from the start of the file
	Bytes   int64  // length of the range; 0 when only lines are missing
	First   uint64 // first sequence number that is missing because of it; 0 when none is known to be
	Last    uint64 // last such number
	Err     error  // of the disk, if it returned one
}

// Recovery reports what Open found. Damage is reported again by each Open until the lines around it are acknowledged.
type Recovery struct {
	Records      uint64   // unacknowledged lines that are kept
	Acked        uint64   // every line up to this sequence number was acknowledged
	Pinned       uint64   // last sequence number of the pinned batch; 0 if none
	Next         uint64   // sequence number that the next line gets
	CutBytes     int64    // bytes cut off the end of the log: lines that were being written, or damage
	Missing      uint64   // unacknowledged sequence numbers whose lines are gone; at most so many, if the disk hid the end of the log
	DamagedBytes int64    // bytes that were skipped, not counting CutBytes
	Damages      int      // number of damaged ranges
	Damaged      []Damage // the first 128 of them
	CursorLost   bool     // the cursor was damaged: an epoch began, and lines that were acknowledged may come again
}

// Clean reports whether nothing was cut, damaged or missing.
func (r Recovery) Clean() bool {
	return r.CutBytes == 0 && r.Missing == 0 && r.Damages == 0 && !r.CursorLost
}

// recovery scans the segments in order.
type recovery struct {
	fs       fileSystem
	dir      string
	rep      Recovery
	segBytes int64    // what a segment holds at most
	floor    uint64   // lines up to here are not needed any more
	expected uint64   // the sequence number that should come next
	highest  uint64   // highest number seen, even of a damaged line
	holes    []span   // missing numbers above floor
	pending  []Damage // it shows later which lines these cost
}

func newRecovery(fsys fileSystem, dir string, floor uint64, segBytes int64) *recovery {
	return &recovery{fs: fsys, dir: dir, floor: floor, segBytes: segBytes, expected: floor + 1}
}

// scan reads s, whose numbers end before before, fills in what s holds, and reports whether it could be read to the end. The
// error means that this cannot be found out now.
func (r *recovery) scan(s *segment, before uint64) (whole bool, err error) {
	r.found(s.name, s.first, s.first)
	f, err := r.fs.Open(filepath.Join(r.dir, s.name), os.O_RDONLY)
	if err != nil {
		return false, r.refused(Damage{Segment: s.name, Err: err})
	}
	defer f.Close()
	if s.bytes, err = f.Size(); err != nil {
		return false, r.refused(Damage{Segment: s.name, Err: err})
	}
	return r.scanItems(&scanner{src: f, salt: s.salt, end: s.bytes, after: s.first - 1, before: before}, s)
}

// refused notes what the disk does not let us read, unless the reason is not the disk: then the lines may well be there.
func (r *recovery) refused(d Damage) error {
	if isPassing(d.Err) {
		return typed("read spool segment "+d.Segment, d.Err)
	}
	r.pending = append(r.pending, d)
	return nil
}

// reserve keeps the numbers of all lines that the unread end of the last segment can hold: another disk, or the same one
// tomorrow, may read them.
func (r *recovery) reserve(s *segment) {
	unread := cmp.Or(s.bytes, r.segBytes) - s.end // without a size, it could not even be opened
	r.highest = max(r.highest, s.last+uint64(unread/headerSize))
}

func (r *recovery) scanItems(sc *scanner, s *segment) (whole bool, err error) {
	for bad := false; ; {
		it, err := sc.next()
		if errors.Is(err, io.EOF) {
			return true, nil
		}
		if err != nil {
			return false, r.refused(Damage{Segment: s.name, Offset: sc.off, Bytes: s.bytes - sc.off, Err: err})
		}
		if !it.ok {
			bad, r.highest = true, max(r.highest, it.seq)
			r.pending = append(r.pending, Damage{Segment: s.name, Offset: it.off, Bytes: it.size})
			continue
		}
		r.found(s.name, it.seq, it.seq+1)
		s.last, s.end, s.holed = it.seq, it.off+it.size, s.holed || bad
		if it.seq > r.floor {
			r.rep.Records++
		}
	}
}

// found notes that seq is there or that the segment name starts at it, and that next should follow. What is missing before
// it is put down to the damage that was met since the last call.
func (r *recovery) found(name string, seq, next uint64) {
	if seq > r.expected {
		r.miss(name, span{r.expected, seq - 1})
	}
	r.highest = max(r.highest, next-1)
	r.expected = max(r.expected, next)
	if seq > r.floor {
		r.report()
	} else if next > seq {
		r.pending = nil // damage among lines that are not needed any more
	}
}

func (r *recovery) miss(name string, gone span) {
	r.rep.Missing += gone.last - gone.first + 1
	r.holes = addSpan(r.holes, gone)
	if len(r.pending) == 0 {
		r.pending = append(r.pending, Damage{Segment: name})
	}
	r.pending[0].First, r.pending[0].Last = gone.first, gone.last
}

func (r *recovery) report() {
	for _, d := range r.pending {
		r.rep.Damages++
		r.rep.DamagedBytes += d.Bytes
		if len(r.rep.Damaged) < maxDamages {
			r.rep.Damaged = append(r.rep.Damaged, d)
		}
	}
	r.pending = nil
}

// cutTail takes the damage behind the last whole record of the last segment out of the report: it is cut off.
func (r *recovery) cutTail(s *segment) {
	if s.end == s.bytes {
		return
	}
	kept := r.pending[:0]
	for _, d := range r.pending {
		if d.Segment != s.name || d.Offset < s.end {
			kept = append(kept, d)
		}
	}
	r.pending = kept
	r.rep.CutBytes = s.bytes - s.end
}

// finish determines the number of the next line: one that nobody outside can have seen.
func (r *recovery) finish(m marks) {
	r.rep.Next = max(r.expected, r.highest+1, m.highest()+1)
	if r.rep.Next > r.expected {
		r.miss("", span{r.expected, r.rep.Next - 1})
	}
	r.report()
	r.rep.Acked, r.rep.Pinned = m.acked, m.pin()
}
