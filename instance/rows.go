package instance

import (
	"encoding/json"
	"iter"
	"strconv"

	"github.com/osqvisor/osqvisor/internal/thriftconn"
)

// Rows is the answer to a query. It never changes, is cheap to copy, and is safe for concurrent
// use. The zero value has no rows.
//
// osqueryd sends every value as text, and NULL as the empty text. A row may lack a column that
// other rows have. [CollectRows] converts rows to structs.
type Rows struct{ rows thriftconn.Rows }

// Len returns the number of rows.
func (r Rows) Len() int { return r.rows.Len() }

// Columns returns the names of the columns, in alphabetical order, as osqueryd sends
// them. It is empty when there are no rows. The caller must not change the slice.
func (r Rows) Columns() []string { return r.rows.Columns() }

// Row returns row i, counted from 0, without copying it. It returns the zero Row when i
// is out of range.
func (r Rows) Row(i int) Row { return Row{r.rows.View(i)} }

// All ranges over the rows with their index.
func (r Rows) All() iter.Seq2[int, Row] {
	return func(yield func(int, Row) bool) {
		for i := range r.Len() {
			if !yield(i, r.Row(i)) {
				return
			}
		}
	}
}

// Maps returns every row as a new map from column to value. A column that a row lacks is
// not in its map.
func (r Rows) Maps() []map[string]string {
	maps := make([]map[string]string, 0, r.Len())
	for _, row := range r.All() {
		maps = append(maps, row.Map())
	}
	return maps
}

// MarshalJSON returns an array with one object per row, as osqueryi --json prints it. No
// rows are an empty array.
func (r Rows) MarshalJSON() ([]byte, error) {
	b := []byte{'['}
	for i, row := range r.All() {
		if i > 0 {
			b = append(b, ',')
		}
		var err error
		if b, err = row.appendJSON(b); err != nil {
			return nil, err
		}
	}
	return append(b, ']'), nil
}

// Row is one row of an answer. It never changes; while it is kept, so are the rows that arrived
// with it. The zero value has no columns.
type Row struct{ row thriftconn.Row }

// Columns returns the names of the columns that were known when the row arrived. The
// caller must not change the slice.
func (r Row) Columns() []string { return r.row.Columns() }

// Get returns the value of a column; empty when the row does not have the column.
func (r Row) Get(column string) string {
	value, _ := r.row.Value(column)
	return value
}

// Lookup returns the value of a column, and whether the row has the column.
func (r Row) Lookup(column string) (value string, ok bool) { return r.row.Value(column) }

// All ranges over the columns that the row has, with their values.
func (r Row) All() iter.Seq2[string, string] { return r.row.All() }

// Map returns the row as a new map from column to value; nil for the zero Row.
func (r Row) Map() map[string]string { return r.row.Map() }

// MarshalJSON returns an object with the row's columns and their values as strings.
func (r Row) MarshalJSON() ([]byte, error) { return r.appendJSON(nil) }

func (r Row) appendJSON(b []byte) ([]byte, error) {
	b = append(b, '{')
	first := true
	for column, value := range r.All() {
		if !first {
			b = append(b, ',')
		}
		first = false
		for i, text := range [2]string{column, value} {
			quoted, err := json.Marshal(text)
			if err != nil {
				return nil, err
			}
			if b = append(b, quoted...); i == 0 {
				b = append(b, ':')
			}
		}
	}
	return append(b, '}'), nil
}

// QueryError is osqueryd's refusal of a query: the SQL is wrong, or a table failed.
type QueryError struct {
	// Code is osqueryd's status code, never 0.
	Code int
	// Message is osqueryd's text, mostly SQLite's.
	Message string
}

// Error returns the code and the message.
func (e *QueryError) Error() string {
	return "osqueryd refused the query (status " + strconv.Itoa(e.Code) + "): " + e.Message
}
