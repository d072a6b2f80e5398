package osqueryconf

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/osqvisor/osqvisor/extension"
)

// maxShapeErrors bounds how many mistakes of one source are listed, of each sort.
const maxShapeErrors = 20

// maxInterval is the longest interval of a query, in seconds.
const maxInterval = 604800

// shape holds a config against what osqueryd does with it (osquery/config and
// plugins/config/parsers, 5.5 to 5.23). What would end osqueryd, or cost it the whole schedule,
// is refused; what osqueryd leaves out alone is noted. Keys that osqueryd does not know are
// nobody's business.
type shape struct {
	source  string
	errs    []error
	ignored []*extension.ConfigError
	more    int // mistakes beyond those that are listed
}

func (s *shape) err() error { return errors.Join(s.errs...) }

// fatal notes what makes the whole config unusable.
func (s *shape) fatal(path, format string, args ...any) {
	if len(s.errs) < maxShapeErrors {
		s.errs = append(s.errs, &extension.ConfigError{Source: s.source, Path: path, Reason: fmt.Sprintf(format, args...)})
	}
}

// skipped notes a part that osqueryd leaves out, or reads otherwise than it was meant.
func (s *shape) skipped(path, format string, args ...any) {
	if len(s.ignored) == maxShapeErrors {
		s.more++
		return
	}
	s.ignored = append(s.ignored, &extension.ConfigError{Source: s.source, Path: path, Reason: fmt.Sprintf(format, args...)})
}

// notes returns what was skipped.
func (s *shape) notes() []*extension.ConfigError {
	if s.more == 0 {
		return s.ignored
	}
	return append(s.ignored, &extension.ConfigError{Source: s.source, Reason: fmt.Sprintf("%d more parts are ignored", s.more)})
}

// is checks the kind of the value at path, which may be nil.
func (s *shape) is(n *node, path string, kind byte) bool {
	return s.isFor(s.skipped, n, path, kind)
}

func (s *shape) isFor(tell func(path, format string, args ...any), n *node, path string, kind byte) bool {
	if n == nil || n.kind == 'n' { // osqueryd skips null
		return false
	}
	if n.kind != kind {
		tell(path, "is %s and should be %s", kindName(n.kind), kindName(kind))
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
}

// common checks what osqueryd reads of a pack as well as of a document.
func (s *shape) common(n *node, prefix string) {
	for _, key := range []string{"options", "auto_table_construction"} {
		s.is(n.get(key), prefix+key, '{')
	}
	s.decorators(n.get("decorators"), prefix+"decorators")
	if views := n.get("views"); s.is(views, prefix+"views", '{') {
		for _, m := range views.members {
			s.is(m.value, prefix+"views."+m.key, '"')
		}
	}
	s.yara(n.get("yara"), prefix+"yara")
	s.events(n.get("events"), prefix+"events")
	s.prometheus(n.get("prometheus_targets"), prefix+"prometheus_targets")
	for _, key := range []string{"file_paths", "file_paths_query", "exclude_paths"} {
		s.listsOfStrings(n.get(key), prefix+key)
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
	s.is(p.get("platform"), path+".platform", '"')
	s.version(p.get("version"), path+".version")
	s.size(p, path, "shard", 0, 100)
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
		s.skipped(path, "has no query")
	} else if s.is(sql, path+".query", '"') && sql.text == "" {
		s.skipped(path+".query", "is empty")
	}
	s.size(q, path, "interval", 1, maxInterval)
	s.size(q, path, "shard", 0, 100)
	s.size(q, path, "startup_priority", 0, 1<<31)
	s.is(q.get("platform"), path+".platform", '"')
	s.version(q.get("version"), path+".version")
	for _, key := range []string{"snapshot", "removed", "denylist"} {
		s.truth(q.get(key), path+"."+key)
	}
}

// size checks a whole number, which may be written as a string.
func (s *shape) size(parent *node, path, key string, low, high int64) {
	n := parent.find(key)
	if n == nil {
		return
	}
	text := n.text
	if n.kind == '0' {
		text = string(n.raw)
	}
	v, err := strconv.ParseInt(text, 10, 64)
	if (n.kind != '0' && n.kind != '"') || err != nil {
		s.skipped(path+"."+key, "is not a whole number")
	} else if v < low || v > high {
		s.skipped(path+"."+key, "%d is not from %d to %d", v, low, high)
	}
}

// version checks the least version of a query or pack. A part that is no 32-bit number is an
// exception in osqueryd, which then leaves out all queries around it.
func (s *shape) version(n *node, path string) {
	if !s.is(n, path, '"') {
		return
	}
	for _, part := range strings.Split(n.text, ".") {
		digits := leadingNumber(part)
		if _, err := strconv.ParseInt(digits, 10, 32); digits != "" && err != nil {
			s.fatal(path, "%.40q makes osqueryd leave out every query beside it", n.text)
			return
		}
	}
}

// leadingNumber returns what C++ reads as the number at the beginning of text.
func leadingNumber(text string) string {
	text = strings.TrimLeft(text, " \t\n\v\f\r")
	end := 0
	for end < len(text) && (text[end] >= '0' && text[end] <= '9' || end == 0 && (text[0] == '-' || text[0] == '+')) {
		end++
	}
	if digits := text[:end]; digits != "-" && digits != "+" {
		return digits
	}
	return ""
}

// truth checks a boolean, in the ways osqueryd reads one: any other string is false.
func (s *shape) truth(n *node, path string) {
	if n == nil || n.kind == 't' {
		return
	}
	text := strings.ToLower(n.text)
	if n.kind == '0' {
		text = string(n.raw)
	}
	switch {
	case n.kind == '0' && (text == "1" || text == "0"):
	case n.kind == '"' && (text == "true" || text == "t" || text == "false" || text == "f"):
	default:
		s.skipped(path, "is not true or false")
	}
}

func (s *shape) strings(n *node, path string) {
	s.stringsFor(s.skipped, n, path)
}

func (s *shape) stringsFor(tell func(path, format string, args ...any), n *node, path string) {
	if !s.is(n, path, '[') {
		return
	}
	for i, v := range n.items {
		at := path + "[" + strconv.Itoa(i) + "]"
		if v.kind == 'n' {
			tell(at, "is null and should be a string")
		}
		s.isFor(tell, v, at, '"')
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

// decorators checks the queries that decorate results.
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
		s.decorationInterval(m, path+".interval."+m.key)
	}
}

// decorationInterval checks one interval of decorators. osqueryd divides by it: 0, and what it
// reads as 0, ends it.
func (s *shape) decorationInterval(m member, path string) {
	s.strings(m.value, path)
	v, err := strconv.ParseInt(leadingNumber(m.key), 10, 64)
	switch {
	case (err != nil || v == 0) && len(m.value.items) > 0:
		s.fatal(path, "is no number of seconds; osqueryd would divide by zero")
	case err != nil || v <= 0 || v%60 != 0:
		s.skipped(path, "is not a number of seconds that is a multiple of 60")
	}
}

// events checks which event subscribers are on. osqueryd reads these without looking at
// their kinds.
func (s *shape) events(n *node, path string) {
	if n != nil && n.kind == '[' {
		s.fatal(path, "is an array, in which osqueryd would look for members")
		return
	}
	if !s.is(n, path, '{') {
		return
	}
	for _, key := range []string{"enable_subscribers", "disable_subscribers"} {
		s.stringsFor(s.fatal, n.get(key), path+"."+key)
	}
}

// yara checks which signatures are for which files. osqueryd reads the lists without looking at
// their kinds when a file changes.
func (s *shape) yara(n *node, path string) {
	if !s.is(n, path, '{') {
		return
	}
	paths := n.get("file_paths")
	if !s.is(paths, path+".file_paths", '{') {
		return
	}
	for _, m := range paths.members {
		s.listFor(s.fatal, m.value, path+".file_paths."+m.key)
	}
}

// listFor checks what osqueryd takes for a list of strings, whatever it is.
func (s *shape) listFor(tell func(path, format string, args ...any), n *node, path string) {
	if n != nil && n.kind != '[' {
		tell(path, "is %s and should be an array", kindName(n.kind))
		return
	}
	s.stringsFor(tell, n, path)
}

// prometheus checks what a table of osqueryd's reads without looking at the kinds.
func (s *shape) prometheus(n *node, path string) {
	if n != nil && n.kind == '[' {
		s.fatal(path, "is an array, in which osqueryd would look for members")
		return
	}
	if !s.is(n, path, '{') {
		return
	}
	s.listFor(s.fatal, n.find("urls"), path+".urls")
	s.size(n, path, "timeout", 0, maxInterval)
}
