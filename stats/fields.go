package stats

import (
	"bytes"
	"encoding/json"
	"iter"
	"reflect"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// marshal is MarshalJSON of every event.
func marshal(e Event) ([]byte, error) {
	var o object
	h := e.Meta()
	o.add("kind", e.Kind())
	if !h.Time.IsZero() {
		o.add("time", h.Time)
	}
	o.add("instance", h.Instance)
	if h.Run != "" {
		o.add("run", h.Run)
	}
	for key, v := range fieldsOf(e) {
		switch v := v.(type) {
		case time.Duration:
			o.add(key+"_ns", v)
		case error:
			o.add(key, v.Error())
		default:
			o.add(key, v)
		}
	}
	return o.end()
}

// object is a JSON object in the making.
type object struct {
	text bytes.Buffer
	err  error
}

func (o *object) add(key string, value any) {
	text, err := json.Marshal(value)
	if err != nil && o.err == nil {
		o.err = err
	}
	sep := byte(',')
	if o.text.Len() == 0 {
		sep = '{'
	}
	o.text.WriteByte(sep)
	o.text.WriteString(strconv.Quote(key)) // names of fields need no more
	o.text.WriteByte(':')
	o.text.Write(text)
}

func (o *object) end() ([]byte, error) {
	o.text.WriteByte('}')
	return o.text.Bytes(), o.err
}

// fieldsOf yields an event's own fields by their names in snake case, except empty texts,
// lists and errors. It reflects, so that a field that is added later cannot be forgotten.
func fieldsOf(e Event) iter.Seq2[string, any] {
	return func(yield func(string, any) bool) {
		v := reflect.ValueOf(e)
		if v.Kind() != reflect.Struct {
			return
		}
		for i := range v.NumField() {
			f := v.Type().Field(i)
			if f.Anonymous || !f.IsExported() || isEmpty(v.Field(i)) {
				continue
			}
			if !yield(fieldKey(f.Name), v.Field(i).Interface()) {
				return
			}
		}
	}
}

func isEmpty(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.String, reflect.Slice:
		return v.Len() == 0
	case reflect.Interface:
		return v.IsNil()
	default:
		return false
	}
}

// fieldKey returns a Go name in snake case: "in_a_row" for "InARow".
func fieldKey(name string) string {
	switch name {
	case "Err":
		return "error"
	case "PIDs":
		return "pids"
	}
	var b strings.Builder
	rs := []rune(name)
	for i, r := range rs {
		if i > 0 && unicode.IsUpper(r) && startsWord(rs, i) {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

// startsWord reports whether the capital at i > 0 is not part of an abbreviation.
func startsWord(rs []rune, i int) bool {
	return unicode.IsLower(rs[i-1]) || (i+1 < len(rs) && unicode.IsLower(rs[i+1]))
}
