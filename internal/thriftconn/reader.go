package thriftconn

import (
	"encoding/binary"
	"fmt"
	"io"
	"strings"

	"github.com/osquery/osquery-go/gen/osquery"
)

const (
	minBuffer = 4 << 10
	maxBuffer = 64 << 10
	// maxClaim is how much may be allocated for a size that was only claimed.
	maxClaim = 1 << 20
	// maxEmptyReads ends a transport that returns nothing and no error.
	maxEmptyReads = 100
)

// reader decodes messages from a stream without frames. The first failure
// sticks: after it every method returns a zero value, so that decoders need to
// look at err only where they loop. One goroutine uses it at a time.
type reader struct {
	src   io.Reader
	buf   []byte
	r, w  int  // buf[r:w] has been read from src and not been consumed
	left  int  // bytes that the current message may still take
	limit int  // bytes that a message may take
	began bool // a byte of the current message has arrived
	err   error
	long  []byte // scratch for a view that is longer than the buffer
}

// reset prepares the reader, which may come from a pool, for a connection.
func (r *reader) reset(src io.Reader, limit int) {
	if r.buf == nil {
		r.buf = make([]byte, minBuffer)
	}
	r.src, r.limit = src, limit
	r.r, r.w = 0, 0
	r.begin()
}

// release drops what a reader in a pool must not keep.
func (r *reader) release() {
	r.src, r.err = nil, nil
	if cap(r.long) > maxClaim {
		r.long = nil
	}
}

// begin starts a new message.
func (r *reader) begin() {
	r.left, r.err = r.limit, nil
	r.began = r.w > r.r
}

// buffered is how many bytes were read and not consumed.
func (r *reader) buffered() int { return r.w - r.r }

func (r *reader) fail(err error) {
	if r.err == nil {
		r.err = err
	}
}

func (r *reader) malformed(format string, args ...any) {
	r.fail(fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...)))
}

func (r *reader) tooLarge(claim int64) {
	r.fail(fmt.Errorf("%w: %d bytes announced where %d of %d may follow", ErrTooLarge, claim, r.left, r.limit))
}

// fill makes sure that n bytes are buffered; n is at most maxBuffer.
func (r *reader) fill(n int) bool {
	for r.w-r.r < n {
		if !r.more(n) {
			return false
		}
	}
	return true
}

// more reads once, into a buffer with room for n unconsumed bytes.
func (r *reader) more(n int) bool {
	if r.err != nil {
		return false
	}
	r.makeRoom(n)
	for range maxEmptyReads {
		m, err := r.src.Read(r.buf[r.w:])
		r.w += m
		if m > 0 {
			r.began = true
			return true // an error that came along comes again
		}
		if err == nil {
			continue
		}
		if err == io.EOF && r.began {
			err = io.ErrUnexpectedEOF
		}
		r.fail(err)
		return false
	}
	r.fail(io.ErrNoProgress)
	return false
}

// makeRoom moves what is buffered to the front. A buffer that the last read
// filled grows, because a large message is likely on its way.
func (r *reader) makeRoom(n int) {
	size := len(r.buf)
	if r.w == size {
		size *= 4
	}
	size = min(max(size, n), maxBuffer)
	src := r.buf[r.r:r.w]
	if size > len(r.buf) {
		r.buf = make([]byte, size)
	}
	r.w = copy(r.buf, src)
	r.r = 0
}

// take consumes n bytes, at most maxBuffer. They are valid until the next read.
func (r *reader) take(n int) []byte {
	if r.err != nil {
		return nil
	}
	if n > r.left {
		r.tooLarge(int64(n))
		return nil
	}
	if r.w-r.r < n && !r.fill(n) {
		return nil
	}
	b := r.buf[r.r : r.r+n]
	r.r += n
	r.left -= n
	return b
}

func (r *reader) u8() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) i16() int16 {
	if b := r.take(2); b != nil {
		return int16(binary.BigEndian.Uint16(b))
	}
	return 0
}

func (r *reader) i32() int32 {
	if b := r.take(4); b != nil {
		return int32(binary.BigEndian.Uint32(b))
	}
	return 0
}

func (r *reader) i64() int64 {
	if b := r.take(8); b != nil {
		return int64(binary.BigEndian.Uint64(b))
	}
	return 0
}

// size reads the length of a string, which must fit into the message.
func (r *reader) size() int {
	return r.count(1)
}

// count reads how many elements follow; each takes at least least bytes.
func (r *reader) count(least int64) int {
	n := int64(r.i32())
	switch {
	case n < 0:
		r.malformed("negative size %d", n)
		return 0
	case n*least > int64(r.left):
		r.tooLarge(n * least)
		return 0
	}
	return int(n)
}

// str reads a string.
func (r *reader) str() string { return r.strOf(r.size()) }

// strOf reads n bytes, which must fit into the message, as a string.
func (r *reader) strOf(n int) string {
	if n <= maxBuffer {
		return string(r.take(n))
	}
	var s strings.Builder
	s.Grow(min(n, maxClaim))
	for n > 0 {
		b := r.chunk(n)
		if b == nil {
			return ""
		}
		s.Write(b)
		n -= len(b)
	}
	return s.String()
}

// view reads a string without copying it where possible. The bytes are valid
// until the next read.
func (r *reader) view() []byte {
	n := r.size()
	if n <= maxBuffer {
		return r.take(n)
	}
	r.long = r.appendTo(r.long[:0], n)
	return r.long
}

// appendTo appends the next n bytes, which must fit into the message, to dst.
func (r *reader) appendTo(dst []byte, n int) []byte {
	for n > 0 {
		b := r.chunk(n)
		if b == nil {
			return dst
		}
		dst = append(dst, b...)
		n -= len(b)
	}
	return dst
}

// chunk consumes what is buffered, up to n bytes; it reads when nothing is.
func (r *reader) chunk(n int) []byte {
	if r.err != nil {
		return nil
	}
	if r.r == r.w && !r.more(1) {
		return nil
	}
	return r.take(min(n, r.w-r.r))
}

// discard drops the next n bytes.
func (r *reader) discard(n int64) {
	if n > int64(r.left) {
		r.tooLarge(n)
		return
	}
	for n > 0 {
		b := r.chunk(int(min(n, int64(maxBuffer))))
		if b == nil {
			return
		}
		n -= int64(len(b))
	}
}

// maxMethod is the longest name of a method that is taken for one.
const maxMethod = 256

// maxPrealloc is how many elements are allocated ahead of their arrival.
const maxPrealloc = 64

type header struct {
	kind   byte
	method string
	seq    int32
}

// header reads the start of a message, with or without a version.
func (r *reader) header() header {
	var h header
	n := r.i32()
	if n >= 0 { // the old form, which starts with the length of the name
		h.method = r.method(int(n))
		h.kind = r.u8()
		h.seq = r.i32()
		return h
	}
	if uint32(n)&versionMask != version1 {
		r.malformed("unknown protocol version %#x", uint32(n))
		return h
	}
	h.kind = byte(n)
	h.method = r.method(int(r.i32()))
	h.seq = r.i32()
	return h
}

// method reads a name of n bytes; those of the protocol cost no allocation.
func (r *reader) method(n int) string {
	if n < 0 || n > maxMethod {
		r.malformed("method name of %d bytes", n)
		return ""
	}
	b := r.take(n)
	switch string(b) {
	case methodPing:
		return methodPing
	case methodCall:
		return methodCall
	case methodQuery:
		return methodQuery
	case methodExtensions:
		return methodExtensions
	}
	return string(b)
}

// expect fails unless the peer sent the type that belongs here.
func (r *reader) expect(what string, got, want byte) bool {
	if got != want {
		r.malformed("%s has type %d instead of %d", what, got, want)
	}
	return r.err == nil
}

func (r *reader) status() osquery.ExtensionStatus {
	var s osquery.ExtensionStatus
	for typ, id := r.field(); typ != typeStop; typ, id = r.field() {
		switch {
		case id == 1 && typ == typeI32:
			s.Code = r.i32()
		case id == 2 && typ == typeString:
			s.Message = r.str()
		case id == 3 && typ == typeI64:
			s.UUID = osquery.ExtensionRouteUUID(r.i64())
		default:
			r.skip(typ)
		}
	}
	return s
}

func (r *reader) exception() (typ int32, message string) {
	for t, id := r.field(); t != typeStop; t, id = r.field() {
		switch {
		case id == 1 && t == typeString:
			message = r.str()
		case id == 2 && t == typeI32:
			typ = r.i32()
		default:
			r.skip(t)
		}
	}
	return typ, message
}

// mapHeader reads the start of a map and checks the types of its elements. An
// empty map may name any types.
func (r *reader) mapHeader(wantKey, wantValue byte, least int64) int {
	key, value := r.u8(), r.u8()
	n := r.count(least)
	if n > 0 && (!r.expect("map key", key, wantKey) || !r.expect("map value", value, wantValue)) {
		return 0
	}
	return n
}

func (r *reader) listHeader(want byte, least int64) int {
	elem := r.u8()
	n := r.count(least)
	if n > 0 && !r.expect("list element", elem, want) {
		return 0
	}
	return n
}

func (r *reader) stringMap() map[string]string {
	n := r.mapHeader(typeString, typeString, 2*minString)
	m := make(map[string]string, min(n, maxPrealloc))
	for ; n > 0 && r.err == nil; n-- {
		k := r.shortStr()
		m[k] = r.shortStr()
	}
	return m
}

func (r *reader) stringMaps() []map[string]string {
	n := r.listHeader(typeMap, minMap)
	list := make([]map[string]string, 0, min(n, maxPrealloc))
	for ; n > 0 && r.err == nil; n-- {
		list = append(list, r.stringMap())
	}
	return list
}

// shortStr reads a string; the vocabulary of plugin calls costs no allocation.
func (r *reader) shortStr() string {
	n := r.size()
	if n > maxKnown {
		return r.strOf(n)
	}
	return known(r.take(n))
}

// maxKnown is the length of the longest string that known looks at.
const maxKnown = 12

// known returns a constant for the strings that osqueryd uses in every call.
func known(b []byte) string {
	switch string(b) {
	case "string":
		return "string"
	case "category":
		return "category"
	case "event":
		return "event"
	case "action":
		return "action"
	case "generate":
		return "generate"
	case "context":
		return "context"
	case "logger":
		return "logger"
	case "table":
		return "table"
	case "config":
		return "config"
	case "distributed":
		return "distributed"
	}
	return string(b)
}

func (r *reader) extensionList() osquery.InternalExtensionList {
	n := r.mapHeader(typeI64, typeStruct, sizeI64+minStruct)
	list := make(osquery.InternalExtensionList, min(n, maxPrealloc))
	for ; n > 0 && r.err == nil; n-- {
		uuid := osquery.ExtensionRouteUUID(r.i64())
		info := &osquery.InternalExtensionInfo{}
		r.strings(&info.Name, &info.Version, &info.SdkVersion, &info.MinSdkVersion)
		list[uuid] = info
	}
	return list
}

// strings reads a struct whose fields 1, 2, … are strings.
func (r *reader) strings(into ...*string) {
	for typ, id := r.field(); typ != typeStop; typ, id = r.field() {
		if typ != typeString || id < 1 || int(id) > len(into) {
			r.skip(typ)
			continue
		}
		*into[id-1] = r.str()
	}
}

// callArgs reads the arguments of a plugin call.
func (r *reader) callArgs() (registry, item string, request map[string]string) {
	for typ, id := r.field(); typ != typeStop; typ, id = r.field() {
		switch {
		case id == 1 && typ == typeString:
			registry = r.shortStr()
		case id == 2 && typ == typeString:
			item = r.str()
		case id == 3 && typ == typeMap:
			request = r.stringMap()
		default:
			r.skip(typ)
		}
	}
	if request == nil {
		request = map[string]string{}
	}
	return registry, item, request
}
