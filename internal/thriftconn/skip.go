package thriftconn

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
