package osquerydtest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"
)

// logItem is one execution's results on their way to a log line.
type logItem struct {
	name     string
	host     string
	time     time.Time
	epoch    int64
	counter  int64
	numerics bool
	columns  []column // with numerics
	decor    map[string]string
	topLevel bool // decorations_top_level

	snapshot rows
	removed  rows
	added    rows
}

// field keeps the order of a JSON object.
type field struct {
	key   string
	value any
}

func object(fields []field) string {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, f := range fields {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "%s:%s", encode(f.key), encode(f.value))
	}
	b.WriteByte('}')
	return b.String()
}

// encode is JSON without the escapes of HTML; what it gets is always
// encodable.
func encode(v any) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(v)
	return string(bytes.TrimRight(b.Bytes(), "\n"))
}

// common are the fields of every line.
func (it logItem) common() []field {
	out := []field{
		{"name", it.name}, {"hostIdentifier", it.host}, {"calendarTime", calendar(it.time)}, {"unixTime", it.time.Unix()},
		{"epoch", it.epoch}, {"counter", it.counter}, {"numerics", it.numerics},
	}
	switch {
	case len(it.decor) == 0:
	case it.topLevel:
		for k, v := range it.decor {
			out = append(out, field{k, v})
		}
	default:
		out = append(out, field{"decorations", it.decor})
	}
	return out
}

// eventLines are one line a row, removed ones first.
func (it logItem) eventLines() []string {
	var out []string
	emit := func(action string, list rows) {
		for _, r := range it.values(list) {
			out = append(out, object(append(it.common(), field{"columns", r}, field{"action", action})))
		}
	}
	emit("removed", it.removed)
	emit("added", it.added)
	emit("snapshot", it.snapshot)
	return out
}

// batchLine is the whole differential.
func (it logItem) batchLine() string {
	diff := map[string]any{"removed": it.values(it.removed), "added": it.values(it.added)}
	return object(append([]field{{"diffResults", diff}}, it.common()...))
}

func (it logItem) snapshotLine() string {
	return object(append([]field{{"snapshot", it.values(it.snapshot)}, {"action", "snapshot"}}, it.common()...))
}

// values are the rows as they are logged, never nil: as text, or with
// logger_numerics as their types.
func (it logItem) values(list rows) []map[string]any {
	if it.numerics {
		return numeric(list, it.columns)
	}
	return numeric(list, nil)
}

func nonNil(r rows) rows {
	if r == nil {
		return rows{}
	}
	return r
}
