package thriftconn

import "slices"

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
	columns  []string       // as handed out last

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

// reset empties the builder and lets go of memory that is too big for a pool.
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

// matches tells whether the next cell has the column that is expected.
func (b *rowBuilder) matches(name []byte) bool {
	return !b.ragged && !b.defining && b.next < b.width() && string(b.name(b.next)) == string(name)
}

// key says which column the next cell belongs to; false when the row has had
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

// rowsOut gives what was gathered, in memory of its own and of the right size.
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

// columnNames gives the columns so far; the slice is made anew only when there
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
