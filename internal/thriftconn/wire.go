package thriftconn

import (
	"encoding/binary"
	"math"
)

// Types of the binary protocol.
const (
	typeStop   byte = 0
	typeBool   byte = 2
	typeByte   byte = 3
	typeDouble byte = 4
	typeI16    byte = 6
	typeI32    byte = 8
	typeI64    byte = 10
	typeString byte = 11
	typeStruct byte = 12
	typeMap    byte = 13
	typeSet    byte = 14
	typeList   byte = 15
	typeUUID   byte = 16
)

// Kinds of messages.
const (
	messageCall      byte = 1
	messageReply     byte = 2
	messageException byte = 3
	messageOneway    byte = 4
)

// Types of a TApplicationException that this package sends or makes.
const (
	exceptionUnknownMethod int32 = 1
	exceptionMissingResult int32 = 5
)

const (
	versionMask uint32 = 0xffff0000
	version1    uint32 = 0x80010000
)

// Sizes of what every element needs at least, to judge a claimed count.
const (
	minString = 4
	minMap    = 6
	minStruct = 1
	sizeI64   = 8
)

// The methods of the protocol.
const (
	methodPing       = "ping"
	methodCall       = "call"
	methodShutdown   = "shutdown"
	methodExtensions = "extensions"
	methodRegister   = "registerExtension"
	methodDeregister = "deregisterExtension"
	methodQuery      = "query"
	methodColumns    = "getQueryColumns"
)

// DefaultMaxMessage is how many bytes a message may have unless an option sets
// another bound: 100 MiB, what osqueryd itself accepts.
const DefaultMaxMessage = 100 << 20

// maxMessageCeiling keeps offsets within 32 bits.
const maxMessageCeiling = math.MaxInt32

// clampMessage returns the limit that an option set, or the default.
func clampMessage(n int) int {
	if n <= 0 {
		return DefaultMaxMessage
	}
	return min(n, maxMessageCeiling)
}

func appendI32(b []byte, v int32) []byte { return binary.BigEndian.AppendUint32(b, uint32(v)) }

func appendI64(b []byte, v int64) []byte { return binary.BigEndian.AppendUint64(b, uint64(v)) }

func appendString(b []byte, s string) []byte {
	return append(appendI32(b, int32(len(s))), s...)
}

func appendField(b []byte, typ byte, id int16) []byte {
	return append(b, typ, byte(id>>8), byte(id))
}

func appendStringField(b []byte, id int16, s string) []byte {
	return appendString(appendField(b, typeString, id), s)
}

func appendStop(b []byte) []byte { return append(b, typeStop) }

func appendHeader(b []byte, kind byte, method string, seq int32) []byte {
	b = binary.BigEndian.AppendUint32(b, version1|uint32(kind))
	return appendI32(appendString(b, method), seq)
}

func appendMapHeader(b []byte, key, value byte, n int) []byte {
	return appendI32(append(b, key, value), int32(n))
}

func appendListHeader(b []byte, elem byte, n int) []byte {
	return appendI32(append(b, elem), int32(n))
}

func appendStringMap(b []byte, m map[string]string) []byte {
	b = appendMapHeader(b, typeString, typeString, len(m))
	for k, v := range m {
		b = appendString(appendString(b, k), v)
	}
	return b
}

func appendStringMaps(b []byte, rows []map[string]string) []byte {
	b = appendListHeader(b, typeMap, len(rows))
	for _, row := range rows {
		b = appendStringMap(b, row)
	}
	return b
}

func appendStatus(b []byte, code int32, message string, uuid int64) []byte {
	b = appendI32(appendField(b, typeI32, 1), code)
	b = appendStringField(b, 2, message)
	b = appendI64(appendField(b, typeI64, 3), uuid)
	return appendStop(b)
}

func appendException(b []byte, typ int32, message string) []byte {
	b = appendStringField(b, 1, message)
	b = appendI32(appendField(b, typeI32, 2), typ)
	return appendStop(b)
}

// maxDepth bounds the nesting of what is skipped; osquery's deepest type has 5.
const maxDepth = 32

// fixedSize is the encoded size of a type, or 0 when it varies.
func fixedSize(typ byte) int64 {
	switch typ {
	case typeBool, typeByte:
		return 1
	case typeI16:
		return 2
	case typeI32:
		return 4
	case typeI64, typeDouble:
		return 8
	case typeUUID:
		return 16
	}
	return 0
}

// leastSize is what an element of a type takes at least.
func leastSize(typ byte) int64 {
	switch typ {
	case typeString:
		return minString
	case typeStruct:
		return minStruct
	case typeMap:
		return minMap
	case typeSet, typeList:
		return 5
	}
	return fixedSize(typ)
}

// skip drops a value of a type that the decoder has no use for.
func (r *reader) skip(typ byte) { r.skipDepth(typ, maxDepth) }

func (r *reader) skipDepth(typ byte, depth int) {
	if r.err != nil {
		return
	}
	if depth == 0 {
		r.malformed("nested deeper than %d", maxDepth)
		return
	}
	if n := fixedSize(typ); n > 0 {
		r.discard(n)
		return
	}
	switch typ {
	case typeString:
		r.discard(int64(r.size()))
	case typeStruct:
		for t, _ := r.field(); t != typeStop; t, _ = r.field() {
			r.skipDepth(t, depth-1)
		}
	case typeMap:
		r.skipMap(depth)
	case typeSet, typeList:
		elem := r.u8()
		r.skipElements(elem, r.count(leastSize(elem)), depth)
	default:
		r.malformed("unknown type %d", typ)
	}
}

func (r *reader) skipElements(elem byte, n, depth int) {
	if size := fixedSize(elem); size > 0 {
		r.discard(size * int64(n))
		return
	}
	for ; n > 0 && r.err == nil; n-- {
		r.skipDepth(elem, depth-1)
	}
}

func (r *reader) skipMap(depth int) {
	key, value := r.u8(), r.u8()
	n := r.count(leastSize(key) + leastSize(value))
	for ; n > 0 && r.err == nil; n-- {
		r.skipDepth(key, depth-1)
		r.skipDepth(value, depth-1)
	}
}

// field reads the next field of a struct; its type is typeStop at the end, and
// after a failure.
func (r *reader) field() (typ byte, id int16) {
	typ = r.u8()
	if typ == typeStop {
		return typeStop, 0
	}
	id = r.i16()
	if r.err != nil {
		return typeStop, 0
	}
	return typ, id
}
