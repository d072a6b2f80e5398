package spool

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// maxFailures is how often the disk may refuse to read a segment before the rest of it counts as damaged.
const maxFailures = 5

// Gap is a range of sequence numbers whose lines are gone. It was announced, by OnLoss or in Recovery.
type Gap struct {
	Reason Reason
	First  uint64 // first sequence number of the range
	Last   uint64 // last sequence number of the range
}

// Batch is what Read returns.
type Batch struct {
	// First and Last are the sequence numbers of the lines: Lines[i] has First+i. When nothing but gaps is left, Lines is
	// empty, First is 0, and Last ends the gaps. Last is the argument for Ack. All is zero when there is nothing.
	First, Last uint64
	Lines       [][]byte // the caller's to keep; lines share memory in blocks of about 64 KiB
	Bytes       int      // sum of the lengths
	Gaps        []Gap    // what is missing between the line before and First, oldest first
}

// position is a known place in the log: the record that follows the line after begins at off in seg.
type position struct {
	seg   *segment
	after uint64
	off   int64
}

// view is what a read works on, taken at one moment.
type view struct {
	seg    *segment // nil when there is nothing
	off    int64    // where to begin
	end    int64    // where the segment ended at that moment
	upper  uint64   // no line beyond this number is in the segment
	sealed bool     // more will not come
	last   uint64   // highest number in use
}

type limits struct {
	records, bytes int
	pin            uint64
}

// Read returns the next lines behind the sequence number after, or behind the last acknowledged one if that is higher: at most
// maxRecords lines and maxBytes bytes of lines, where less than 1 means no limit; one line above maxBytes comes alone. A batch
// ends at a gap, at a pin and at the end of a segment, so it holds at most SegmentBytes. Nothing is consumed: the same call
// returns the same lines while they are not acknowledged or evicted, and more if there was room for them.
//
// The error is ErrClosed or ErrIO; after five of the latter for one segment in a row, its rest counts as damaged (the newest
// one's when the next line has begun another). That the host is out of descriptors or memory does not count.
func (q *Queue) Read(after uint64, maxRecords, maxBytes int) (Batch, error) {
	start, at, lim := q.begin(after, maxRecords, maxBytes)
	for {
		if q.isClosed() {
			return Batch{}, ErrClosed
		}
		v := q.look(at)
		if v.seg == nil {
			return q.onlyGaps(start, v.last), nil
		}
		b, err := q.readSegment(v, at, lim)
		if err != nil {
			if err := q.readFailed(v, err); err != nil {
				return Batch{}, err
			}
			continue
		}
		if len(b.Lines) > 0 {
			return q.withGaps(b, start, b.First-1), nil
		}
		at = max(at, v.upper)
	}
}

// begin returns where the batch starts, for its gaps, and behind which line to look. A power cut may bring back a file that was
// evicted; its lines stay lost, as announced.
func (q *Queue) begin(after uint64, maxRecords, maxBytes int) (start, at uint64, lim limits) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return max(after, q.marks.acked), max(after, q.marks.floor()), limits{maxRecords, maxBytes, q.marks.pin()}
}

// look finds the segment that holds the first line behind at.
func (q *Queue) look(at uint64) view {
	q.mu.Lock()
	defer q.mu.Unlock()
	v := view{last: q.last}
	for i, s := range q.segs {
		v.sealed, v.upper = i+1 < len(q.segs), s.last
		if v.sealed {
			v.upper = q.segs[i+1].first - 1
		}
		if s.end > 0 && v.upper > at && s.last > at {
			v.seg, v.end = s, s.end
			break
		}
	}
	for _, p := range q.recent {
		if p.seg != nil && p.seg == v.seg && p.after == at {
			v.off = p.off
		}
	}
	return v
}

// readSegment collects lines from one segment.
func (q *Queue) readSegment(v view, at uint64, lim limits) (Batch, error) {
	f, err := q.fs.Open(filepath.Join(q.dir, v.seg.name), os.O_RDONLY)
	if err != nil {
		return Batch{}, err
	}
	sc := &scanner{src: f, salt: v.seg.salt, off: v.off, end: v.end, after: v.seg.first - 1, before: v.upper + 1}
	var b Batch
	begin, end, err := collect(sc, at, lim, &b)
	if closeErr := f.Close(); err == nil && closeErr != nil {
		err = closeErr
	}
	if len(b.Lines) == 0 {
		return b, err
	}
	// If the disk failed behind the lines that were read, the next Read returns the error.
	q.remember(position{v.seg, at, begin}, position{v.seg, b.Last, end})
	return b, nil
}

// collect fills b and returns the offsets of its first record and behind its last.
func collect(sc *scanner, at uint64, lim limits, b *Batch) (begin, end int64, err error) {
	for {
		it, err := sc.next()
		if errors.Is(err, io.EOF) {
			return begin, end, nil
		}
		if err != nil {
			return begin, end, err
		}
		if !it.ok || it.seq <= at {
			continue
		}
		if len(b.Lines) > 0 && b.stopsBefore(it, lim) {
			return begin, end, nil
		}
		if len(b.Lines) == 0 {
			b.First, begin = it.seq, it.off
		}
		sc.hold()
		b.Last, end = it.seq, it.off+it.size
		b.Lines = append(b.Lines, it.line)
		b.Bytes += len(it.line)
		if lim.reached(b) {
			return begin, end, nil
		}
	}
}

// reached saves reading what would not be taken.
func (lim limits) reached(b *Batch) bool {
	return len(b.Lines) == lim.records || lim.bytes > 0 && b.Bytes >= lim.bytes || b.Last == lim.pin
}

func (b *Batch) stopsBefore(it item, lim limits) bool {
	return it.seq != b.Last+1 || b.First <= lim.pin && it.seq > lim.pin ||
		lim.bytes > 0 && b.Bytes+len(it.line) > lim.bytes
}

func (q *Queue) remember(begin, end position) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.recent = [2]position{begin, end}
	begin.seg.failures = 0
}

// readFailed decides what a failure means. It returns nil if the read may go on.
func (q *Queue) readFailed(v view, err error) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	listed := false
	for _, s := range q.segs {
		listed = listed || s == v.seg
	}
	if !listed {
		return nil // it was evicted or acknowledged meanwhile
	}
	if !isPassing(err) {
		v.seg.failures++
	}
	if v.seg.failures >= maxFailures {
		if v.sealed {
			v.seg.last, v.seg.end = v.seg.first-1, 0
			return nil
		}
		q.unread = true
	}
	return typed(fmt.Sprintf("read spool segment %s", v.seg.name), err)
}

// onlyGaps is the batch when no line follows start.
func (q *Queue) onlyGaps(start, last uint64) Batch {
	if last <= start {
		return Batch{}
	}
	return q.withGaps(Batch{Last: last}, start, last)
}

// withGaps adds what is missing behind start up to end, and announces it if that is news.
func (q *Queue) withGaps(b Batch, start, end uint64) Batch {
	q.mu.Lock()
	start = max(start, q.marks.acked) // somebody may have acknowledged meanwhile
	evicted := min(q.marks.evicted, end)
	news := q.newHoles(max(start, q.marks.floor())+1, end)
	q.mu.Unlock()
	if evicted > start {
		b.Gaps = append(b.Gaps, Gap{Evicted, start + 1, evicted})
	}
	if end > max(evicted, start) {
		b.Gaps = append(b.Gaps, Gap{Damaged, max(evicted, start) + 1, end})
	}
	q.announce(news)
	return b
}

// newHoles notes first to last as missing; mu is locked.
func (q *Queue) newHoles(first, last uint64) []Loss {
	if first > last {
		return nil
	}
	n := last - first + 1 - countIn(q.holes, first, last)
	if n == 0 {
		return nil
	}
	q.holes = addSpan(q.holes, span{first, last})
	q.counter.dropped.Damaged += n
	return []Loss{{Reason: Damaged, First: first, Last: last, Records: n}}
}
