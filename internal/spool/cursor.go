package spool

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/crc32"
)

const (
	cursorName  = "cursor"
	cursorMagic = 0x32435053 // "SPC2"
	slotSize    = 72
	slotStride  = 4096 // a torn write harms one sector, hence one slot
)

// marks are the sequence numbers that outlive the process.
type marks struct {
	acked   uint64 // every line up to here is delivered
	evicted uint64 // every line up to here is delivered or was evicted, and announced
	pinned  uint64 // the batch after acked ends here; 0 if none
	seen    uint64 // no number up to here is used for another line; it never falls, whatever becomes of the others
}

// floor is the number up to which nobody will read.
func (m marks) floor() uint64 { return max(m.acked, m.evicted) }

// highest is the last number that may have been seen outside.
func (m marks) highest() uint64 { return max(m.acked, m.evicted, m.pinned, m.seen) }

// pin is where the batch under way ends; 0 if there is none, or nothing of it is left to read.
func (m marks) pin() uint64 {
	if m.pinned <= m.floor() {
		return 0
	}
	return m.pinned
}

// epoch names one unbroken sequence of numbers.
type epoch [16]byte

func newEpoch() (e epoch) {
	_, _ = rand.Read(e[:]) // never fails
	return e
}

func (e epoch) String() string { return hex.EncodeToString(e[:]) }

// cursor keeps marks in a file, in two slots. What was flushed is not written over before its successor is: at any moment,
// and after a power cut at any moment, one whole slot holds the last marks that were flushed, or later ones.
type cursor struct {
	f       file
	turn    uint64
	epoch   epoch
	marks   marks
	rooted  bool // the names of the file and of the directories above it are flushed
	doubt   bool // a slot was damaged: whether the other one was the newer cannot be known
	flushed bool // the newest slot is; unknown, and so false, after Open
	opened  bool // nothing was written since Open found a slot
}

// loadCursor reads the newer whole slot; found reports whether there was one. An empty file gets room for both slots now:
// acknowledging must work when the disk is full. If there is no room, that is not a reason to refuse to open.
func loadCursor(f file) (c cursor, found bool, err error) {
	c.f = f
	size, err := f.Size()
	if err != nil {
		return c, false, err
	}
	if size == 0 {
		_, _ = f.WriteAt(make([]byte, slotStride+slotSize), 0)
	}
	doubt := false
	for i := range int64(2) {
		var b [slotSize]byte
		if n, _ := f.ReadAt(b[:], i*slotStride); n < slotSize {
			continue
		}
		s, ok := parseSlot(b[:])
		doubt = doubt || !ok && b != [slotSize]byte{}
		if ok && (!found || s.turn > c.turn) {
			s.f = f
			c, found = s, true
		}
	}
	c.opened, c.doubt = found, doubt
	return c, found, nil
}

// blank reports whether the cursor was never written; one that was damaged is not blank.
func (c *cursor) blank() bool {
	f, b := c.f, make([]byte, 2*slotStride)
	n, _ := f.ReadAt(b, 0)
	for _, x := range b[:n] {
		if x != 0 {
			return false
		}
	}
	return true
}

// save writes m to the slot that does not hold what was flushed last.
func (c *cursor) save(m marks) error {
	if c.opened { // an earlier process wrote the newest slot, and may have been killed before it flushed it
		if err := c.flush(); err != nil {
			return err
		}
	}
	m.seen = m.highest()
	turn := c.turn + 1
	if !c.flushed && c.turn > 0 {
		turn++ // the same slot again
	}
	b := c.slot(turn, m)
	if _, err := c.f.WriteAt(b[:], int64(turn%2)*slotStride); err != nil {
		return typed("write spool cursor", err)
	}
	c.turn, c.marks, c.flushed = turn, m, false
	return nil
}

func (c *cursor) flush() error {
	if c.flushed {
		return nil
	}
	if err := c.f.Sync(); err != nil {
		return typed("flush spool cursor", err)
	}
	c.flushed, c.opened = true, false
	return nil
}

func (c *cursor) slot(turn uint64, m marks) (b [slotSize]byte) {
	binary.LittleEndian.PutUint32(b[4:], cursorMagic)
	for i, n := range []uint64{turn, m.acked, m.evicted, m.pinned, m.seen} {
		binary.LittleEndian.PutUint64(b[8+8*i:], n)
	}
	copy(b[48:64], c.epoch[:])
	if c.rooted {
		b[64] = 1
	}
	binary.LittleEndian.PutUint32(b[:], crc32.Checksum(b[4:], castagnoli))
	return b
}

func parseSlot(b []byte) (c cursor, ok bool) {
	if binary.LittleEndian.Uint32(b) != crc32.Checksum(b[4:slotSize], castagnoli) ||
		binary.LittleEndian.Uint32(b[4:]) != cursorMagic {
		return cursor{}, false
	}
	for i, n := range []*uint64{&c.turn, &c.marks.acked, &c.marks.evicted, &c.marks.pinned, &c.marks.seen} {
		*n = binary.LittleEndian.Uint64(b[8+8*i:])
	}
	c.epoch, c.rooted = epoch(b[48:64]), b[64] == 1
	return c, c.marks.highest() < maxSeq
}

// Ack notes that every line up to the sequence number last is delivered. It is on disk when Ack returns without an error: it
// survives kill -9, and under SyncEach a power cut. A number that is acknowledged already is no error; one that no line has
// is ErrSequence. With ErrNoSpace or ErrIO nothing changed, and the same call may be made again. A pin that is reached is lifted.
func (q *Queue) Ack(last uint64) error {
	if err := q.acquire(q.flushing); err != nil {
		return err
	}
	defer func() { <-q.flushing }()
	return q.mark(last, func(m *marks) bool {
		if last <= m.acked {
			return false
		}
		m.acked = last
		m.pinned = m.pin()
		return true
	}, q.opts.Sync.kind == syncEach)
}

// Pin stores that the batch after the last acknowledged line ends with the sequence number last, so that a Read after a
// restart can return the same batch again: Read does not go beyond a pin. Call it before a batch is sent, or to change how a
// batch that failed is cut. When it returns without an error the pin survives a power cut under every policy, so that within
// an epoch no number up to it ever belongs to another line; the lines are flushed before it, unless the policy is SyncNever.
// Zero lifts the pin. Errors are those of Ack.
func (q *Queue) Pin(last uint64) error {
	if err := q.acquire(q.flushing); err != nil {
		return err
	}
	defer func() { <-q.flushing }()
	if q.opts.Sync.kind != syncNever {
		_ = q.syncTo(min(last, q.highest())) // counted; the lines are stored, and their numbers are kept
	}
	return q.mark(last, func(m *marks) bool {
		if last <= m.floor() && last != 0 || last == m.pinned {
			return false
		}
		m.pinned = last
		return true
	}, true)
}

// mark changes the marks by set, which reports whether there is something to write. The caller has flushing, as in all functions below.
func (q *Queue) mark(last uint64, set func(*marks) bool, flush bool) error {
	q.mu.Lock()
	m, highest := q.marks, q.last
	q.mu.Unlock()
	if last > highest {
		return fmt.Errorf("sequence number %d, last is %d: %w", last, highest, ErrSequence)
	}
	changed := set(&m)
	if changed {
		if err := q.cursor.save(m); err != nil {
			return err
		}
	}
	if flush {
		if err := q.flushCursor(); err != nil {
			return err
		}
	}
	if changed {
		q.drop(q.apply(m))
	}
	return nil
}

// flushCursor makes what the cursor holds survive a power cut, with its name.
func (q *Queue) flushCursor() error {
	if err := q.cursor.flush(); err != nil || q.cursor.rooted {
		return err
	}
	if err := q.flushNames(); err != nil {
		return typed("flush the names of the spool's files", err)
	}
	return nil
}

// apply makes m known and removes the segments that are not needed any more from the list.
func (q *Queue) apply(m marks) []string {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.marks.acked, q.marks.pinned = m.acked, m.pinned
	q.marks.seen = max(q.marks.seen, m.highest())
	q.forget()
	var names []string
	for len(q.segs) > 1 && q.segs[1].first-1 <= q.marks.floor() {
		names = append(names, q.segs[0].name)
		q.grow(-q.segs[0].bytes)
		q.segs = q.segs[1:]
	}
	return names
}

// drop deletes acknowledged segments. The cursor is flushed before, whatever the policy: after a power cut, their lines would
// otherwise be missed.
func (q *Queue) drop(names []string) {
	if len(names) == 0 {
		return
	}
	_ = q.flushCursor() // at worst, a false report
	q.discard(names)
}
