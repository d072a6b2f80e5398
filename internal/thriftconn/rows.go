package thriftconn

import "iter"

// Rows is the answer to a query in a compact form: the column names once, all
// cells in one string. It never changes, so that any number of goroutines may
// read it, and copying it is cheap. The zero value has no rows.
//
// osqueryd does not tell NULL from the empty string. A row may lack a column
// that other rows have; such a cell is absent, which is not the same as empty.
type Rows struct{ t *table }

// table is what Rows points to. While all rows have the same columns in the
// same order, cell c of row r is at r*len(columns)+c. As soon as one differs,
// cellColumn and rowStart say where the cells belong.
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

// Columns gives the names of the columns in the order in which osqueryd first
// sent them, which is alphabetical. It is empty when there are no rows. The
// caller must not change the slice.
func (r Rows) Columns() []string {
	if r.t == nil {
		return nil
	}
	return r.t.columns
}

// Value gives a cell by the name of its column, and whether it is there: false
// for an unknown column, for a row that lacks it and for a row out of range.
func (r Rows) Value(row int, column string) (string, bool) {
	return r.View(row).Value(column)
}

// At gives a cell by the index of its column in Columns; an absent cell, or an
// index out of range, gives the empty string.
func (r Rows) At(row, column int) string { return r.View(row).At(column) }

// Row gives row i as a new map, without its absent cells; nil when i is out of
// range.
func (r Rows) Row(i int) map[string]string { return r.View(i).Map() }

// View gives row i without copying anything; the zero Row when i is out of
// range.
func (r Rows) View(i int) Row {
	if i < 0 || i >= r.Len() {
		return Row{}
	}
	return Row{t: r.t, i: i}
}

// Maps gives all rows as new maps, without their absent cells.
func (r Rows) Maps() []map[string]string {
	maps := make([]map[string]string, r.Len())
	for i := range maps {
		maps[i] = r.Row(i)
	}
	return maps
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

// Columns gives the names of the columns known when the row arrived. The
// caller must not change the slice.
func (r Row) Columns() []string {
	if r.t == nil {
		return nil
	}
	return r.t.columns
}

// Value gives a cell by the name of its column, and whether the row has it.
func (r Row) Value(column string) (string, bool) {
	for c, name := range r.Columns() {
		if name == column {
			return r.t.cell(r.i, c)
		}
	}
	return "", false
}

// At gives a cell by the index of its column; an absent cell, or an index out
// of range, gives the empty string.
func (r Row) At(column int) string {
	if column < 0 || column >= len(r.Columns()) {
		return ""
	}
	s, _ := r.t.cell(r.i, column)
	return s
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

// Map gives the row as a new map; nil for the zero Row.
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

// cells gives the range of the cells of a row.
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
