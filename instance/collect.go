package instance

import (
	"encoding"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// CollectRows converts every row to a T, which must be a struct. A field receives the column that
// its tag names, as in `osquery:"pid"`; without a tag the column of its name, where case and
// underscores do not count (ParentPID receives parent_pid); the tag "-" leaves a field out. Fields of
// embedded structs count too. Columns without a field are ignored.
//
// A field is a string, []byte, bool (0 and 1), any integer or float, time.Time (seconds since
// 1970; 0 and less are the zero time), a type with UnmarshalText, or a pointer to one of these.
// The empty text, which is also NULL, leaves a number, bool or time zero and a pointer nil.
//
// The error is a *[CollectError] when a value does not fit its field, or when the rows lack a
// field's column.
func CollectRows[T any](rows Rows) ([]T, error) {
	plan, err := newRowPlan[T]()
	if err != nil {
		return nil, err
	}
	out := make([]T, rows.Len())
	for i, row := range rows.All() {
		if err := plan.fill(reflect.ValueOf(&out[i]).Elem(), row, i); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// CollectRow converts one row to a T, as [CollectRows] does. It is for the rows that
// QueryEach streams.
func CollectRow[T any](row Row) (T, error) {
	var out T
	plan, err := newRowPlan[T]()
	if err == nil {
		err = plan.fill(reflect.ValueOf(&out).Elem(), row, 0)
	}
	return out, err
}

// CollectError reports a value that does not fit its field, or a column that a row lacks.
type CollectError struct {
	// Row counts from 0.
	Row int
	// Column is the column's name, Field the field's.
	Column, Field string
	// Value is the text; empty when the row lacks the column.
	Value string
	// Err is what is wrong.
	Err error
}

// Error names the row, the column, the field and the reason.
func (e *CollectError) Error() string {
	return fmt.Sprintf("row %d: column %q to field %s: %v", e.Row, e.Column, e.Field, e.Err)
}

// Unwrap returns the reason.
func (e *CollectError) Unwrap() error { return e.Err }

var errNoColumn = errors.New("the answer has no such column")

func isTime(t reflect.Type) bool { return t == reflect.TypeFor[time.Time]() }

func unmarshalsText(t reflect.Type) bool {
	return reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

// rowPlan is how the columns of an answer get into the fields of a struct.
type rowPlan struct{ fields []rowField }

type rowField struct {
	name   string
	column string
	tagged bool
	index  []int
	bound  string   // the column that the last row had for the field
	seen   []string // the columns for which bound was looked up
}

func newRowPlan[T any]() (*rowPlan, error) {
	t := reflect.TypeFor[T]()
	if t.Kind() != reflect.Struct {
		return nil, fmt.Errorf("CollectRows: %v is not a struct", t)
	}
	p := &rowPlan{}
	err := p.add(t, nil)
	return p, err
}

// add adds the fields of t, which is found at index.
func (p *rowPlan) add(t reflect.Type, index []int) error {
	for i := range t.NumField() {
		f := t.Field(i)
		at := append(append([]int{}, index...), i)
		tag, tagged := f.Tag.Lookup("osquery")
		switch {
		case tag == "-":
		case f.Anonymous && !tagged && f.Type.Kind() == reflect.Struct && !isTime(f.Type):
			if err := p.add(f.Type, at); err != nil {
				return err
			}
		case !f.IsExported() && tagged:
			return fmt.Errorf("CollectRows: field %s of %v has a column but is not exported", f.Name, t)
		case !f.IsExported():
		case !convertible(f.Type):
			return fmt.Errorf("CollectRows: field %s of %v is a %v, which no column can be converted to", f.Name, t, f.Type)
		default:
			column := tag
			if column == "" {
				column = f.Name
			}
			p.fields = append(p.fields, rowField{name: f.Name, column: column, tagged: tag != "", index: at})
		}
	}
	return nil
}

func convertible(t reflect.Type) bool {
	if isTime(t) || unmarshalsText(t) {
		return true
	}
	switch t.Kind() {
	case reflect.Pointer:
		return t.Elem().Kind() != reflect.Pointer && convertible(t.Elem())
	case reflect.Slice:
		return t.Elem().Kind() == reflect.Uint8
	case reflect.Bool, reflect.String, reflect.Float32, reflect.Float64,
		reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return true
	default:
		return false
	}
}

// fill sets the fields of the struct to from row i.
func (p *rowPlan) fill(to reflect.Value, row Row, i int) error {
	for k := range p.fields {
		f := &p.fields[k]
		column := f.columnOf(row)
		text, ok := row.Lookup(column)
		if !ok {
			return &CollectError{Row: i, Column: column, Field: f.name, Err: errNoColumn}
		}
		if err := setText(to.FieldByIndex(f.index), text); err != nil {
			return &CollectError{Row: i, Column: column, Field: f.name, Value: text, Err: err}
		}
	}
	return nil
}

// columnOf finds the column of an untagged field by its name, once for each set of columns.
func (f *rowField) columnOf(row Row) string {
	if f.tagged {
		return f.column
	}
	columns := row.Columns()
	if len(columns) > 0 && len(f.seen) == len(columns) && &f.seen[0] == &columns[0] {
		return f.bound
	}
	f.seen, f.bound = columns, f.column
	want := plainName(f.column)
	for _, column := range columns {
		if plainName(column) == want {
			f.bound = column
			break
		}
	}
	return f.bound
}

func plainName(s string) string { return strings.ToLower(strings.ReplaceAll(s, "_", "")) }

// setText converts osqueryd's text to the type of v.
func setText(v reflect.Value, text string) error {
	t := v.Type()
	switch {
	case t.Kind() == reflect.Pointer && text == "":
		v.SetZero()
		return nil
	case t.Kind() == reflect.Pointer:
		v.Set(reflect.New(t.Elem()))
		return setText(v.Elem(), text)
	case isTime(t):
		return setTime(v, text)
	case unmarshalsText(t):
		u, _ := v.Addr().Interface().(encoding.TextUnmarshaler) // it implements it
		return u.UnmarshalText([]byte(text))
	case t.Kind() == reflect.String:
		v.SetString(text)
		return nil
	case t.Kind() == reflect.Slice:
		v.SetBytes([]byte(text))
		return nil
	case text == "":
		v.SetZero()
		return nil
	default:
		return setNumber(v, text)
	}
}

func setTime(v reflect.Value, text string) error {
	seconds := int64(0)
	if text != "" {
		var err error
		if seconds, err = strconv.ParseInt(text, 10, 64); err != nil {
			return plainParse(err, text, "a number of seconds since 1970")
		}
	}
	if seconds <= 0 {
		v.SetZero()
		return nil
	}
	v.Set(reflect.ValueOf(time.Unix(seconds, 0)))
	return nil
}

func setNumber(v reflect.Value, text string) error {
	bits := 0
	if v.Kind() != reflect.Bool {
		bits = v.Type().Bits()
	}
	switch {
	case v.Kind() == reflect.Bool:
		b, err := strconv.ParseBool(text)
		v.SetBool(b)
		return plainParse(err, text, "a bool")
	case v.CanInt():
		n, err := strconv.ParseInt(text, 10, bits)
		v.SetInt(n)
		return plainParse(err, text, v.Type().String())
	case v.CanUint():
		n, err := strconv.ParseUint(text, 10, bits)
		v.SetUint(n)
		return plainParse(err, text, v.Type().String())
	default:
		n, err := strconv.ParseFloat(text, bits)
		v.SetFloat(n)
		return plainParse(err, text, v.Type().String())
	}
}

// plainParse leaves strconv's function names out of its errors.
func plainParse(err error, text, what string) error {
	if err == nil {
		return nil
	}
	var num *strconv.NumError
	if errors.As(err, &num) {
		err = num.Err
	}
	return fmt.Errorf("%q is not %s: %w", text, what, err)
}
