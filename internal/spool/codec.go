package spool

import (
	"encoding/binary"
	"hash/crc32"
)

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
