package spool

import (
	"encoding/binary"
	"hash/crc32"
)

const (
	cursorName  = "cursor"
	cursorMagic = 0x31435053 // "SPC1"
	slotSize    = 40
	slotStride  = 4096 // a torn write harms one sector, hence one slot
)

// marks are the sequence numbers that outlive the process.
type marks struct {
	acked   uint64 // every line up to here is delivered
	evicted uint64 // every line up to here is delivered or was evicted, and announced
	pinned  uint64 // the batch after acked ends here; 0 if none
}

// highest is the last number that may have been seen outside.
func (m marks) highest() uint64 { return max(m.acked, m.evicted, m.pinned) }

// cursor keeps marks in a file, in two slots that are written in turn, so that one is whole at any moment.
type cursor struct {
	f     file
	turn  uint64
	marks marks
}

// loadCursor reads the newer whole slot; found says that there was one. An empty file gets room for both slots now:
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
	for i := range int64(2) {
		var b [slotSize]byte
		if n, _ := f.ReadAt(b[:], i*slotStride); n < slotSize {
			continue
		}
		if turn, m, ok := parseSlot(b[:]); ok && (!found || turn > c.turn) {
			c.turn, c.marks, found = turn, m, true
		}
	}
	return c, found, nil
}

// blank tells a cursor that was never written from one that was damaged.
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

// save writes m to the older slot.
func (c *cursor) save(m marks) error {
	var b [slotSize]byte
	turn := c.turn + 1
	binary.LittleEndian.PutUint32(b[4:], cursorMagic)
	binary.LittleEndian.PutUint64(b[8:], turn)
	binary.LittleEndian.PutUint64(b[16:], m.acked)
	binary.LittleEndian.PutUint64(b[24:], m.evicted)
	binary.LittleEndian.PutUint64(b[32:], m.pinned)
	binary.LittleEndian.PutUint32(b[:], crc32.Checksum(b[4:], castagnoli))
	if _, err := c.f.WriteAt(b[:], int64(turn%2)*slotStride); err != nil {
		return typed("write spool cursor", err)
	}
	c.turn, c.marks = turn, m
	return nil
}

func parseSlot(b []byte) (turn uint64, m marks, ok bool) {
	if binary.LittleEndian.Uint32(b) != crc32.Checksum(b[4:slotSize], castagnoli) ||
		binary.LittleEndian.Uint32(b[4:]) != cursorMagic {
		return 0, marks{}, false
	}
	turn = binary.LittleEndian.Uint64(b[8:])
	m.acked = binary.LittleEndian.Uint64(b[16:])
	m.evicted = binary.LittleEndian.Uint64(b[24:])
	m.pinned = binary.LittleEndian.Uint64(b[32:])
	return turn, m, m.highest() < maxSeq
}
