package spool

import (
	"errors"
	"io"
)

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
	return s.take(h)
}

// take returns the record of h. If its line is damaged, the length in the header is to be trusted only if a record follows
// where it says so: what was cut off and came back after a power cut may lie across newer records.
func (s *scanner) take(h header) (item, error) {
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
