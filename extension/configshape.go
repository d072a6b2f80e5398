package extension

import (
	"errors"
	"fmt"
	"sort"
	"strconv"
)

// maxShapeErrors bounds how many mistakes of one source are listed.
const maxShapeErrors = 20

// maxInterval is the longest interval of a query, in seconds.
const maxInterval = 604800

// shape checks the keys of a config that osqueryd knows; what it does not know it
// ignores, and so does this. osqueryd skips a malformed part in silence.
type shape struct {
	source string
	errs   []error
}

func (s *shape) err() error { return errors.Join(s.errs...) }

func (s *shape) bad(path, format string, args ...any) {
	if len(s.errs) < maxShapeErrors {
		s.errs = append(s.errs, &ConfigError{Source: s.source, Path: path, Reason: fmt.Sprintf(format, args...)})
	}
}

// is checks the kind of the value at path, which may be nil.
func (s *shape) is(n *node, path string, kind byte) bool {
	if n == nil || n.kind == 'n' { // osqueryd skips null
		return false
	}
	if n.kind != kind {
		s.bad(path, "is %s and should be %s", kindName(n.kind), kindName(kind))
		return false
	}
	return true
}

func kindName(kind byte) string {
	switch kind {
	case '{':
		return "an object"
	case '[':
		return "an array"
	case '"':
		return "a string"
	case '0':
		return "a number"
	case 't':
		return "true or false"
	default:
		return "nothing"
	}
}

func (s *shape) document(doc *node) {
	s.queries(doc.get("schedule"), "schedule")
	s.packs(doc.get("packs"))
	s.common(doc, "")
	for _, key := range []string{"events", "yara", "prometheus_targets", "logger", "auto_table_construction"} {
		s.is(doc.get(key), key, '{')
	}
	s.listsOfStrings(doc.get("file_paths"), "file_paths")
	s.listsOfStrings(doc.get("file_paths_query"), "file_paths_query")
	s.listsOfStrings(doc.get("exclude_paths"), "exclude_paths")
}

// common checks what a pack can hold as well as a document.
func (s *shape) common(n *node, prefix string) {
	s.is(n.get("options"), prefix+"options", '{')
	s.decorators(n.get("decorators"), prefix+"decorators")
	if views := n.get("views"); s.is(views, prefix+"views", '{') {
		for _, m := range views.members {
			s.is(m.value, prefix+"views."+m.key, '"')
		}
	}
}

func (s *shape) packs(packs *node) {
	if !s.is(packs, "packs", '{') {
		return
	}
	for _, m := range packs.members {
		switch {
		case m.value.kind == '"': // the name of a pack that the transport resolves
		case isMultiPack(m):
			for _, pack := range m.value.members {
				s.pack(pack.value, "packs.*."+pack.key)
			}
		default:
			s.pack(m.value, "packs."+m.key)
		}
	}
}

func (s *shape) pack(p *node, path string) {
	if !s.is(p, path, '{') {
		return
	}
	s.queries(p.get("queries"), path+".queries")
	s.strings(p.get("discovery"), path+".discovery")
	s.text(p, path, "platform", "version")
	s.number(p.get("shard"), path+".shard", 0, 100)
	s.common(p, path+".")
}

func (s *shape) queries(queries *node, path string) {
	if !s.is(queries, path, '{') {
		return
	}
	for _, m := range queries.members {
		s.query(m.value, path+"."+m.key)
	}
}

func (s *shape) query(q *node, path string) {
	if !s.is(q, path, '{') {
		return
	}
	if sql := q.get("query"); sql == nil {
		s.bad(path, "has no query")
	} else if s.is(sql, path+".query", '"') && sql.text == "" {
		s.bad(path+".query", "is empty")
	}
	s.number(q.get("interval"), path+".interval", 1, maxInterval)
	s.number(q.get("shard"), path+".shard", 0, 100)
	s.number(q.get("startup_priority"), path+".startup_priority", 0, 1<<31)
	s.text(q, path, "platform", "version")
	for _, key := range []string{"snapshot", "removed", "denylist"} {
		s.truth(q.get(key), path+"."+key)
	}
}

// number checks an integer, which may be written as a string.
func (s *shape) number(n *node, path string, low, high int64) {
	if n == nil {
		return
	}
	text := n.text
	if n.kind == '0' {
		text = string(n.raw)
	}
	v, err := strconv.ParseInt(text, 10, 64)
	if (n.kind != '0' && n.kind != '"') || err != nil {
		s.bad(path, "is not a whole number")
	} else if v < low || v > high {
		s.bad(path, "%d is not from %d to %d", v, low, high)
	}
}

// truth checks a boolean, in the ways osqueryd reads one.
func (s *shape) truth(n *node, path string) {
	if n == nil || n.kind == 't' {
		return
	}
	text := n.text
	if n.kind == '0' {
		text = string(n.raw)
	}
	switch text {
	case "true", "false", "1", "0":
	default:
		s.bad(path, "is not true or false")
	}
}

func (s *shape) text(n *node, path string, keys ...string) {
	for _, key := range keys {
		s.is(n.get(key), path+"."+key, '"')
	}
}

func (s *shape) strings(n *node, path string) {
	if !s.is(n, path, '[') {
		return
	}
	for i, v := range n.items {
		s.is(v, path+"["+strconv.Itoa(i)+"]", '"')
	}
}

func (s *shape) listsOfStrings(n *node, path string) {
	if !s.is(n, path, '{') {
		return
	}
	for _, m := range n.members {
		s.strings(m.value, path+"."+m.key)
	}
}

func (s *shape) decorators(d *node, path string) {
	if !s.is(d, path, '{') {
		return
	}
	s.strings(d.get("load"), path+".load")
	s.strings(d.get("always"), path+".always")
	interval := d.get("interval")
	if !s.is(interval, path+".interval", '{') {
		return
	}
	for _, m := range interval.members {
		at := path + ".interval." + m.key
		if v, err := strconv.ParseUint(m.key, 10, 32); err != nil || v == 0 || v%60 != 0 {
			s.bad(at, "is not a number of seconds that is a multiple of 60")
		}
		s.strings(m.value, at)
	}
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
