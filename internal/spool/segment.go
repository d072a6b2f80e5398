package spool

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"strconv"
	"strings"
)

const segmentSuffix = ".spool"

// segment is one file of the log. Its numbers are guarded by Queue.mu.
type segment struct {
	name     string // within the directory
	gen      uint64 // order of creation
	first    uint64 // sequence number that it starts at
	salt     uint32
	last     uint64 // of its last whole record; first-1 when it has none
	end      int64  // offset behind the last whole record: readers stop here
	bytes    int64  // size of the file
	failures int    // reads in a row that the disk refused

	holed     bool // there is damage before its last whole record
	unflushed bool // holds lines up to Queue.synced that may not be flushed
}

func newSegment(gen, first uint64, salt uint32) *segment {
	name := fmt.Sprintf("%012d-%020d-%08x%s", gen, first, salt, segmentSuffix)
	return &segment{name: name, gen: gen, first: first, salt: salt, last: first - 1}
}

// parseSegment returns nil for a name that is not a segment's.
func parseSegment(name string) *segment {
	base, ok := strings.CutSuffix(name, segmentSuffix)
	parts := strings.Split(base, "-")
	if !ok || len(parts) != 3 {
		return nil
	}
	gen, err1 := strconv.ParseUint(parts[0], 10, 62)
	first, err2 := strconv.ParseUint(parts[1], 10, 62)
	salt, err3 := strconv.ParseUint(parts[2], 16, 32)
	if err1 != nil || err2 != nil || err3 != nil || first == 0 {
		return nil
	}
	if s := newSegment(gen, first, uint32(salt)); s.name == name {
		return s
	}
	return nil
}

func sortSegments(s []*segment) {
	slices.SortFunc(s, func(a, b *segment) int {
		if a.gen < b.gen {
			return -1
		}
		return 1
	})
}

// span is a range of sequence numbers, both ends included.
type span struct{ first, last uint64 }

// countIn returns how many numbers of sorted, disjoint spans lie from first to last.
func countIn(spans []span, first, last uint64) uint64 {
	var n uint64
	for _, s := range spans {
		if lo, hi := max(s.first, first), min(s.last, last); lo <= hi {
			n += hi - lo + 1
		}
	}
	return n
}

// addSpan puts s into sorted, disjoint spans.
func addSpan(spans []span, s span) []span {
	i := 0
	for i < len(spans) && spans[i].last+1 < s.first {
		i++
	}
	j := i
	for j < len(spans) && spans[j].first <= s.last+1 {
		s.first, s.last = min(s.first, spans[j].first), max(s.last, spans[j].last)
		j++
	}
	return slices.Replace(spans, i, j, s)
}

// dropSpans forgets what lies up to seq.
func dropSpans(spans []span, seq uint64) []span {
	for len(spans) > 0 && spans[0].last <= seq {
		spans = spans[1:]
	}
	return spans
}

const (
	headerSize = 20
	maxSeq     = 1 << 62 // no real log gets there; keeps additions from overflowing
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// appendRecord adds the encoded record to dst.
func appendRecord(dst []byte, salt uint32, seq uint64, line []byte) []byte {
	at := len(dst)
	dst = append(dst, make([]byte, headerSize)...)
	dst = append(dst, line...)
	h := dst[at : at+headerSize]
	binary.LittleEndian.PutUint32(h[4:], uint32(len(line)))
	binary.LittleEndian.PutUint64(h[8:], seq)
	binary.LittleEndian.PutUint32(h[16:], crc32.Checksum(line, castagnoli))
	binary.LittleEndian.PutUint32(h, crc32.Update(salt, castagnoli, h[4:]))
	return dst
}

// header is a record's header whose checksum was right.
type header struct {
	seq  uint64
	size int64 // of the whole record
	sum  uint32
}

// parseHeader reads a header from the first headerSize bytes of b. The cheap checks come first: after damage this runs at
// every byte.
func parseHeader(b []byte, salt uint32, after, before uint64) (header, bool) {
	length := binary.LittleEndian.Uint32(b[4:])
	seq := binary.LittleEndian.Uint64(b[8:])
	if length > formatMaxRecord || seq <= after || seq >= before {
		return header{}, false
	}
	if binary.LittleEndian.Uint32(b) != crc32.Update(salt, castagnoli, b[4:headerSize]) {
		return header{}, false
	}
	return header{seq, headerSize + int64(length), binary.LittleEndian.Uint32(b[16:])}, true
}

func (h header) lineIsWhole(line []byte) bool {
	return crc32.Checksum(line, castagnoli) == h.sum
}

// chunkBytes is how much is read at once; a chunk is also what the lines of a batch share as memory.
const chunkBytes = 64 << 10

// scanner walks over the records of one segment, and over damage to the next record.
type scanner struct {
	src    io.ReaderAt
	salt   uint32
	end    int64  // offset where the segment ends
	off    int64  // offset of buf[0]
	after  uint64 // records up to here were seen: numbers only rise
	before uint64 // records from here on belong to later segments
	buf    []byte // read, not yet consumed
	store  []byte // what buf is a part of
	held   bool   // somebody keeps lines in store: it must not be used again
}

// item is one record, or one damaged range.
type item struct {
	off  int64
	size int64
	seq  uint64 // 0 when damage hides it
	line []byte // valid until the next call of next, unless hold was called
	ok   bool
}

// hold keeps the memory of the lines returned so far.
func (s *scanner) hold() { s.held = true }

// next returns the next item, and io.EOF at the end. Another error is the disk's.
func (s *scanner) next() (item, error) {
	if s.off >= s.end {
		return item{}, io.EOF
	}
	h, ok, err := s.header()
	if err != nil {
		return item{}, err
	}
	if !ok {
		return s.resync()
	}
	if err := s.fill(h.size); err != nil {
		return item{}, err
	}
	if int64(len(s.buf)) < h.size { // the file shrank while it was read
		return s.resync()
	}
	return s.record(h)
}

// record returns the record of h. If its line is damaged, the length in the header is to be trusted only if a record follows
// where it points to: what was cut off and came back after a power cut may lie across newer records.
func (s *scanner) record(h header) (item, error) {
	line := s.buf[headerSize:h.size:h.size]
	it := item{off: s.off, size: h.size, seq: h.seq, ok: h.lineIsWhole(line)}
	if it.ok {
		it.line = line
	} else if follows, err := s.follows(h); err != nil || !follows {
		if err == nil {
			it, err = s.resync()
			it.seq = h.seq
		}
		return it, err
	}
	s.skip(h.size)
	s.after = h.seq
	return it, nil
}

// follows reports whether there is a header behind the record of h.
func (s *scanner) follows(h header) (bool, error) {
	if err := s.fill(h.size + headerSize); err != nil || int64(len(s.buf)) < h.size+headerSize {
		return false, err
	}
	next, ok := parseHeader(s.buf[h.size:], s.salt, h.seq, s.before)
	return ok && next.size <= s.end-s.off-h.size, nil
}

// header looks at the header at the current offset; false if there is none or its record goes beyond the end.
func (s *scanner) header() (header, bool, error) {
	if err := s.fill(headerSize); err != nil {
		return header{}, false, err
	}
	if len(s.buf) < headerSize {
		return header{}, false, nil
	}
	h, ok := parseHeader(s.buf, s.salt, s.after, s.before)
	return h, ok && h.size <= s.end-s.off, nil
}

// resync moves to the next good header, or to the end, and returns what lies between.
func (s *scanner) resync() (item, error) {
	start := s.off
	for s.off < s.end {
		s.skip(1)
		_, ok, err := s.header()
		if err != nil {
			return item{}, err
		}
		if ok {
			break
		}
		if len(s.buf) < headerSize {
			s.skip(int64(len(s.buf)))
			s.off = s.end
		}
	}
	return item{off: start, size: s.off - start}, nil
}

func (s *scanner) skip(n int64) {
	s.buf = s.buf[min(n, int64(len(s.buf))):]
	s.off += n
}

// fill makes buf at least n bytes long, unless the segment ends before.
func (s *scanner) fill(n int64) error {
	want := min(max(n, chunkBytes), s.end-s.off)
	if int64(len(s.buf)) >= min(n, want) {
		return nil
	}
	have := len(s.buf)
	s.buf = s.room(want)
	got, err := s.src.ReadAt(s.buf[have:], s.off+int64(have))
	s.buf = s.buf[:have+got]
	if errors.Is(err, io.EOF) {
		if int64(len(s.buf)) < want {
			s.end = s.off + int64(len(s.buf))
		}
		return nil
	}
	return err
}

// room returns n bytes that begin with what is in buf.
func (s *scanner) room(n int64) []byte {
	if s.held || int64(cap(s.store)) < n {
		s.store = make([]byte, n)
		s.held = false
	}
	b := s.store[:n]
	copy(b, s.buf)
	return b
}
