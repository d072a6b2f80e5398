package fakeosqueryd

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
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

// differential compares results with those of the last time and remembers
// them. The counter of a first or fresh set is 0.
func (w *worker) differential(q *scheduledQuery, current rows, epoch int64) (it logItem, changed bool) {
	name, db := q.fullName, w.db
	fresh := w.isFresh(q, epoch)
	it = logItem{counter: 1, epoch: epoch}
	if fresh {
		it.added = current
	} else {
		raw, _ := db.get(domainQueries, name)
		var previous rows
		_ = json.Unmarshal([]byte(raw), &previous) // unreadable: everything is new
		it.removed, it.added = diffRows(previous, current)
	}
	changed = len(it.added) > 0 || len(it.removed) > 0
	if !changed && !fresh {
		return it, false
	}
	it.counter = 0
	if !fresh {
		raw, _ := db.get(domainQueries, name+"counter")
		n, _ := strconv.ParseInt(raw, 10, 64)
		it.counter = n + 1
	}
	_ = db.put(domainQueries, name, encode(nonNil(current)), name+"epoch", strconv.FormatInt(epoch, 10),
		name+"counter", strconv.FormatInt(it.counter, 10), "query."+name, q.Query)
	return it, true
}

// isFresh: a new query, or a new epoch. Changed SQL alone is only announced.
func (w *worker) isFresh(q *scheduledQuery, epoch int64) bool {
	name := q.fullName
	raw, known := w.db.get(domainQueries, name)
	old, _ := w.db.get(domainQueries, name+"epoch")
	sql, _ := w.db.get(domainQueries, "query."+name)
	switch {
	case !known || raw == "":
		w.p.log.info("query.cpp:108", "Storing initial results for new scheduled query: %s", name)
		return true
	case old != strconv.FormatInt(epoch, 10):
		w.p.log.info("query.cpp:112", "New Epoch %d for scheduled query %s", epoch, name)
		return true
	case sql != q.Query:
		w.p.log.info("query.cpp:117", "Scheduled query has been updated: %s", name)
		_ = w.db.put(domainQueries, "query."+name, q.Query)
	}
	return false
}

// diffRows counts equal rows: two of the same need two.
func diffRows(old, current rows) (removed, added rows) {
	count := map[string]int{}
	for _, r := range old {
		count[encode(r)]++
	}
	for _, r := range current {
		key := encode(r)
		if count[key] > 0 {
			count[key]--
		} else {
			added = append(added, r)
		}
	}
	for _, r := range old {
		key := encode(r)
		if count[key] > 0 {
			count[key]--
			removed = append(removed, r)
		}
	}
	return removed, added
}

// decorators are the queries whose columns are added to each log line. They
// all run at each line here; osqueryd keeps the results of load and interval.
type decorators []string

func parseDecorators(v any) decorators {
	doc, _ := v.(map[string]any)
	var out decorators
	for _, kind := range []string{"load", "always"} {
		out = append(out, texts(doc[kind])...)
	}
	intervals, _ := doc["interval"].(map[string]any)
	for _, k := range slices.Sorted(maps.Keys(intervals)) {
		out = append(out, texts(intervals[k])...)
	}
	return out
}

func texts(v any) []string {
	list, _ := v.([]any)
	var out []string
	for _, e := range list {
		out = append(out, text(e))
	}
	return out
}

// decorations runs the decorators of all sources.
func (c *configState) decorations() map[string]string {
	if c.w.p.flags.bool("disable_decorators") {
		return nil
	}
	c.mu.Lock()
	var queries []string
	for _, source := range slices.Sorted(maps.Keys(c.decorators)) {
		queries = append(queries, c.decorators[source]...)
	}
	c.mu.Unlock()
	out := map[string]string{}
	for _, q := range queries {
		got, err := c.w.sql.query(q)
		if err == nil && len(got) > 0 {
			maps.Copy(out, got[0])
		}
	}
	return out
}
