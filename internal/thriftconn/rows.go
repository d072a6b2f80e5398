package thriftconn

import (
	"encoding/binary"
	"iter"
	"slices"
)

// Rows is the answer to a query in a compact form: the column names once, all
// cells in one string. It never changes, so that any number of goroutines may
// read it, and copying it is cheap. The zero value has no rows.
//
// osqueryd sends NULL as the empty string. A row may lack a column
// that other rows have; such a cell is absent, which is not the same as empty.
type Rows struct{ t *table }

// table is what Rows points to. While all rows have the same columns in the
// same order, cell c of row r is at r*len(columns)+c. As soon as one differs,
// cellColumn and rowStart hold where the cells belong.
type table struct {
	columns []string
	data    string
	ends    []uint32 // cell i is data[ends[i-1]:ends[i]]
	rows    int

	ragged     bool
	cellColumn []uint32 // the column of cell i
	rowStart   []uint32 // the first cell of row i
}

// Len is the number of rows.
func (r Rows) Len() int {
	if r.t == nil {
		return 0
	}
	return r.t.rows
}

// Columns returns the names of the columns in the order in which osqueryd first
// sent them, which is alphabetical. It is empty when there are no rows. The
// caller must not change the slice.
func (r Rows) Columns() []string {
	if r.t == nil {
		return nil
	}
	return r.t.columns
}

// View returns row i without copying anything; the zero Row when i is out of
// range.
func (r Rows) View(i int) Row {
	if i < 0 || i >= r.Len() {
		return Row{}
	}
	return Row{t: r.t, i: i}
}

// All ranges over the rows with their index.
func (r Rows) All() iter.Seq2[int, Row] {
	return func(yield func(int, Row) bool) {
		for i := range r.Len() {
			if !yield(i, Row{t: r.t, i: i}) {
				return
			}
		}
	}
}

// Row is a view of one row. It stays valid for as long as it is kept, and
// keeps the rows that arrived with it in memory. The zero value has no columns.
type Row struct {
	t *table
	i int
}

// Columns returns the names of the columns known when the row arrived. The
// caller must not change the slice.
func (r Row) Columns() []string {
	if r.t == nil {
		return nil
	}
	return r.t.columns
}

// Value returns a cell by the name of its column, and whether the row has it.
func (r Row) Value(column string) (string, bool) {
	for c, name := range r.Columns() {
		if name == column {
			return r.t.cell(r.i, c)
		}
	}
	return "", false
}

// All ranges over the cells that the row has: the column and the value.
func (r Row) All() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		if r.t == nil {
			return
		}
		first, last := r.t.cells(r.i)
		for k := first; k < last; k++ {
			if !yield(r.t.columns[r.t.columnOf(k, first)], r.t.text(k)) {
				return
			}
		}
	}
}

// Map returns the row as a new map; nil for the zero Row.
func (r Row) Map() map[string]string {
	if r.t == nil {
		return nil
	}
	first, last := r.t.cells(r.i)
	m := make(map[string]string, last-first)
	for column, value := range r.All() {
		m[column] = value
	}
	return m
}

// cells returns the range of the cells of a row.
func (t *table) cells(row int) (first, last int) {
	if !t.ragged {
		n := len(t.columns)
		return row * n, (row + 1) * n
	}
	last = len(t.ends)
	if row+1 < t.rows {
		last = int(t.rowStart[row+1])
	}
	return int(t.rowStart[row]), last
}

func (t *table) columnOf(cell, first int) int {
	if t.ragged {
		return int(t.cellColumn[cell])
	}
	return cell - first
}

func (t *table) text(cell int) string {
	start := uint32(0)
	if cell > 0 {
		start = t.ends[cell-1]
	}
	return t.data[start:t.ends[cell]]
}

// cell finds a cell; the column must exist.
func (t *table) cell(row, column int) (string, bool) {
	first, last := t.cells(row)
	if !t.ragged {
		return t.text(first + column), true
	}
	for k := first; k < last; k++ {
		if int(t.cellColumn[k]) == column {
			return t.text(k), true
		}
	}
	return "", false
}

const (
	// maxLinear is up to how many columns a name is looked for one by one.
	maxLinear = 64
	// maxPooledData and maxPooledCells bound what a pooled builder keeps.
	maxPooledData  = 1 << 20
	maxPooledCells = 1 << 18
)

// rowBuilder gathers rows as they are decoded. Its memory grows with the bytes
// that arrived, whatever the shape of the rows.
type rowBuilder struct {
	names    []byte // the column names, one after the other
	nameEnds []uint32
	index    map[string]int // of the columns, once there are many
	columns  []string       // as returned last

	data []byte
	ends []uint32
	rows int

	listed bool // the list of rows was met

	ragged     bool
	cellColumn []uint32
	rowStart   []uint32

	stamp    []uint32 // per column: the turn of the row that had it last
	turn     uint32   // counts the rows, from 1
	next     int      // the column that is expected next
	first    int      // the first cell of the current row
	defining bool     // the current row defines the columns
}

// reset empties the builder and drops memory that is too big for a pool.
func (b *rowBuilder) reset() {
	b.names, b.nameEnds, b.stamp = keep(b.names), keep(b.nameEnds), keep(b.stamp)
	b.index, b.columns = nil, nil
	b.turn = 0
	b.ragged, b.listed = false, false
	b.clearRows()
}

// clearRows forgets the rows and keeps the columns.
func (b *rowBuilder) clearRows() {
	b.data, b.ends = keep(b.data), keep(b.ends)
	b.cellColumn, b.rowStart = keep(b.cellColumn), keep(b.rowStart)
	b.rows = 0
}

// keep empties a slice, or drops it when it is too big.
func keep[E byte | uint32](s []E) []E {
	most := maxPooledCells
	if _, bytes := any(s).([]byte); bytes {
		most = maxPooledData
	}
	if cap(s) > most {
		return nil
	}
	return s[:0]
}

func (b *rowBuilder) width() int { return len(b.nameEnds) }

func (b *rowBuilder) name(i int) []byte {
	start := uint32(0)
	if i > 0 {
		start = b.nameEnds[i-1]
	}
	return b.names[start:b.nameEnds[i]]
}

// begin starts a row of n cells.
func (b *rowBuilder) begin(n int) {
	b.turn++
	b.next = 0
	b.first = len(b.ends)
	b.defining = b.rows == 0 && b.width() == 0 && !b.ragged
	switch {
	case b.ragged:
		b.rowStart = append(b.rowStart, uint32(b.first))
	case !b.defining && n != b.width():
		b.goRagged()
	}
}

// matches reports whether the next cell has the column that is expected.
func (b *rowBuilder) matches(name []byte) bool {
	return !b.ragged && !b.defining && b.next < b.width() && string(b.name(b.next)) == string(name)
}

// key reports which column the next cell belongs to; false when the row has had
// that column already.
func (b *rowBuilder) key(name []byte) bool {
	if b.matches(name) {
		b.next++
		return true
	}
	if !b.ragged && !b.defining {
		b.goRagged()
	}
	c := b.column(name)
	if b.stamp[c] == b.turn {
		return false
	}
	b.stamp[c] = b.turn
	b.next = c + 1
	if b.ragged {
		b.cellColumn = append(b.cellColumn, uint32(c))
	}
	return true
}

// goRagged begins to note the column of every cell, in the middle of a row.
func (b *rowBuilder) goRagged() {
	b.ragged = true
	for row := range b.rows {
		b.rowStart = append(b.rowStart, uint32(row*b.width()))
		for c := range b.width() {
			b.cellColumn = append(b.cellColumn, uint32(c))
		}
	}
	b.rowStart = append(b.rowStart, uint32(b.first))
	for c := range len(b.ends) - b.first {
		b.cellColumn = append(b.cellColumn, uint32(c))
		b.stamp[c] = b.turn
	}
}

// column finds the column of a name, which it adds when it is new.
func (b *rowBuilder) column(name []byte) int {
	if b.next < b.width() && string(b.name(b.next)) == string(name) {
		return b.next
	}
	if c, ok := b.find(name); ok {
		return c
	}
	c := b.width()
	b.names = append(b.names, name...)
	b.nameEnds = append(b.nameEnds, uint32(len(b.names)))
	b.stamp = append(b.stamp, 0)
	if b.index != nil {
		b.index[string(name)] = c
	}
	return c
}

func (b *rowBuilder) find(name []byte) (int, bool) {
	if b.index == nil && b.width() > maxLinear {
		b.index = make(map[string]int, 2*maxLinear)
		for c := range b.width() {
			b.index[string(b.name(c))] = c
		}
	}
	if b.index != nil {
		c, ok := b.index[string(name)]
		return c, ok
	}
	for c := range b.width() {
		if string(b.name(c)) == string(name) {
			return c, true
		}
	}
	return 0, false
}

// end finishes a cell whose bytes were appended to data.
func (b *rowBuilder) end() { b.ends = append(b.ends, uint32(len(b.data))) }

// rowsOut returns what was gathered, in memory of its own and of the right size.
func (b *rowBuilder) rowsOut() Rows {
	if b.rows == 0 {
		return Rows{}
	}
	t := &table{
		columns: b.columnNames(),
		data:    string(b.data),
		ends:    slices.Clone(b.ends),
		rows:    b.rows,
		ragged:  b.ragged,
	}
	if b.ragged {
		t.cellColumn, t.rowStart = slices.Clone(b.cellColumn), slices.Clone(b.rowStart)
	}
	return Rows{t}
}

// columnNames returns the columns so far; the slice is made anew only when there
// are more than before.
func (b *rowBuilder) columnNames() []string {
	if len(b.columns) == b.width() {
		return b.columns
	}
	names := string(b.names)
	columns := make([]string, b.width())
	start := uint32(0)
	for i, end := range b.nameEnds {
		columns[i] = names[start:end]
		start = end
	}
	b.columns = columns
	return columns
}

const (
	// chunkBytes and chunkRows are after how much of a streamed answer its rows are emitted.
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

// quickCell reads a cell that is entirely buffered and has the column that is
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

// cell reads any cell.
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
