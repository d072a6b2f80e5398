package spool

import (
	"cmp"
	"errors"
	"io"
	"os"
	"path/filepath"
)

// maxDamages bounds Recovery.Damaged; the sums count every range.
const maxDamages = 128

// Damage is one range of the log that could not be read, or that should be there and is not.
type Damage struct {
	Segment string // file name within the directory; "" when no file is left
	Offset  int64  // bytes from the start of the file
	Bytes   int64  // length of the range; 0 when only lines are missing
	First   uint64 // first sequence number that is missing because of it; 0 when none is known to be
	Last    uint64 // last such number
	Err     error  // what the disk said, if it said something
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
	floor    uint64   // nobody wants lines up to here any more
	expected uint64   // the sequence number that should come next
	highest  uint64   // highest number seen, even of a damaged line
	holes    []span   // missing numbers above floor
	pending  []Damage // it shows later which lines these cost
}

func newRecovery(fsys fileSystem, dir string, floor uint64, segBytes int64) *recovery {
	return &recovery{fs: fsys, dir: dir, floor: floor, segBytes: segBytes, expected: floor + 1}
}

// scan reads s, whose numbers end before before, fills in what s holds, and reports whether it could be read to the end. The
// error says that this is no time to find out.
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

// refused notes what the disk does not let us read, unless that says nothing about the disk: then the lines may well be there.
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
		r.pending = nil // damage among lines that nobody wants any more
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

// finish settles the number that the next line gets: one that nobody outside can have seen.
func (r *recovery) finish(m marks) {
	r.rep.Next = max(r.expected, r.highest+1, m.highest()+1)
	if r.rep.Next > r.expected {
		r.miss("", span{r.expected, r.rep.Next - 1})
	}
	r.report()
	r.rep.Acked, r.rep.Pinned = m.acked, m.pin()
}
