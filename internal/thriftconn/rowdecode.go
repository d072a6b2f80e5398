package thriftconn

import "encoding/binary"

const (
	// chunkBytes and chunkRows are after how much a streamed answer is handed on.
	chunkBytes = 64 << 10
	chunkRows  = 1024
)

// answer is an ExtensionResponse as it comes from a query.
type answer struct {
	code    int32
	message string
}

// queryAnswer reads an ExtensionResponse; its rows go into b. When emit is not
// nil it gets them chunk by chunk, except for the last one; an error from it
// ends the reading.
func (r *reader) queryAnswer(b *rowBuilder, emit func() error) answer {
	var a answer
	for typ, id := r.field(); typ != typeStop; typ, id = r.field() {
		switch {
		case id == 1 && typ == typeStruct:
			s := r.status()
			a.code, a.message = s.Code, s.Message
		case id == 2 && typ == typeList:
			r.rows(b, emit)
		default:
			r.skip(typ)
		}
	}
	return a
}

func (r *reader) rows(b *rowBuilder, emit func() error) {
	if b.listed {
		r.malformed("the answer has rows twice")
		return
	}
	b.listed = true
	n := r.listHeader(typeMap, minMap)
	for ; n > 0 && r.err == nil; n-- {
		r.row(b)
		if emit != nil && (b.rows >= chunkRows || len(b.data) >= chunkBytes) && r.err == nil {
			if err := emit(); err != nil {
				r.fail(err)
			}
		}
	}
}

func (r *reader) row(b *rowBuilder) {
	n := r.mapHeader(typeString, typeString, 2*minString)
	b.begin(n)
	for i := 0; i < n && r.err == nil; i++ {
		if !r.quickCell(b) {
			r.cell(b)
		}
	}
	b.rows++
}

// quickCell takes a cell that is entirely buffered and has the column that is
// expected. It is what nearly every cell of an answer goes through.
func (r *reader) quickCell(b *rowBuilder) bool {
	buf := r.buf[r.r:r.w]
	if len(buf) < 2*minString || b.ragged || b.defining || b.next >= len(b.nameEnds) {
		return false
	}
	name := b.name(b.next)
	value := minString + len(name) // where the value's length is
	if binary.BigEndian.Uint32(buf) != uint32(len(name)) || len(buf) < value+minString ||
		string(buf[minString:value]) != string(name) {
		return false
	}
	start := value + minString
	end := start + int(binary.BigEndian.Uint32(buf[value:]))
	if end > len(buf) || end > r.left || end < start {
		return false
	}
	b.data = append(b.data, buf[start:end]...)
	b.ends = append(b.ends, uint32(len(b.data)))
	b.next++
	r.r += end
	r.left -= end
	return true
}

// cell takes any cell.
func (r *reader) cell(b *rowBuilder) {
	name := r.view()
	if r.err != nil {
		return
	}
	if !b.key(name) {
		r.malformed("a row has column %.100q twice", name)
		return
	}
	b.data = r.appendTo(b.data, r.size())
	b.end()
}
