package fakeosqueryd

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/osquery/osquery-go/gen/osquery"
)

type rows = []map[string]string

type column struct{ name, kind string }

// tableDef is a table; generate gets the statement's conditions. One of an
// extension has scan instead, which is told the columns that are used, too.
type tableDef struct {
	name     string
	columns  []column
	generate func(where []condition) (rows, error)
	scan     func(where []condition, used map[string]bool) (rows, error)
}

// engine answers SQL over built-in, script's and extensions' tables.
type engine struct {
	w       *worker
	primary sync.Mutex // the one database; a second one is slow to build
	tables  map[string]*tableDef
}

func newEngine(w *worker) *engine {
	e := &engine{w: w, tables: map[string]*tableDef{}}
	for _, t := range w.builtinTables() {
		e.tables[t.name] = t
	}
	for _, t := range w.p.conf.Tables {
		e.tables[t.Name] = scriptTable(t)
	}
	return e
}

func scriptTable(t Table) *tableDef {
	def := &tableDef{name: t.Name, generate: func([]condition) (rows, error) { return t.Rows, nil }}
	for _, c := range t.Columns {
		def.columns = append(def.columns, column{c, "TEXT"})
	}
	return def
}

// builtin is nil for a table that core does not have.
func (e *engine) builtin(name string) *tableDef { return e.tables[name] }

// disabled follows --disable_tables and --enable_tables.
func (e *engine) disabled(name string) bool {
	flags := e.w.p.flags
	if list := flags.str("enable_tables"); list != "" {
		return !inList(list, name)
	}
	return inList(flags.str("disable_tables"), name)
}

func inList(list, name string) bool {
	return slices.Contains(strings.Split(list, ","), name)
}

// find looks a table up by name.
func (e *engine) find(name string) (*tableDef, error) {
	name = strings.ToLower(name)
	if t := e.tables[name]; t != nil && !e.disabled(name) {
		return t, nil
	}
	if ext, ok := e.w.registry.owner("table", name); ok && !e.disabled(name) {
		return e.extensionTable(ext, name), nil
	}
	if e.w.registry.wasTable(name) {
		return nil, fmt.Errorf("vtable constructor failed: %s", name)
	}
	return nil, fmt.Errorf("no such table: %s", name)
}

// query runs all statements and returns the rows of all.
func (e *engine) query(sql string) (osquery.ExtensionPluginResponse, error) {
	tokens, err := lex(sql)
	if err != nil {
		return nil, err
	}
	if !e.primary.TryLock() {
		e.secondDatabase()
	} else {
		defer e.primary.Unlock()
	}
	var out rows
	for _, st := range splitStatements(tokens) {
		got, err := e.run(st)
		if err != nil {
			return nil, err
		}
		out = append(out, got...)
	}
	return out, nil
}

// secondDatabase is what a query that finds the database busy costs: core asks
// every extension for the columns of every table.
func (e *engine) secondDatabase() {
	e.w.count.second.Add(1)
	for _, ext := range e.w.registry.list() {
		for name := range ext.plugins["table"] {
			e.w.registry.callExtension(ext.uuid, "table", name, map[string]string{"action": "columns"})
		}
	}
}

func (e *engine) run(tokens []token) (rows, error) {
	s, err := parseSelect(tokens)
	if err != nil {
		return nil, err
	}
	t, err := e.resolve(s)
	if err != nil {
		return nil, err
	}
	for _, it := range s.items {
		if it.sleep >= 0 {
			e.w.p.Delay(time.Duration(it.sleep * float64(time.Second)))
		}
	}
	source, err := t.read(s)
	if err != nil {
		return nil, err
	}
	return project(s, t, filter(s, source)), nil
}

// resolve finds the table, checks the columns and gives them their true names.
func (e *engine) resolve(s *selection) (*tableDef, error) {
	t := &tableDef{generate: func([]condition) (rows, error) { return rows{{}}, nil }}
	if s.table != "" {
		var err error
		if t, err = e.find(s.table); err != nil {
			return nil, err
		}
	}
	for i := range s.items {
		if it := &s.items[i]; it.column != "" {
			if err := t.own(&it.column); err != nil {
				return nil, err
			}
		}
	}
	for i := range s.where {
		if c := &s.where[i]; !c.literalOnly() {
			if err := t.own(&c.column); err != nil {
				return nil, err
			}
		}
	}
	if s.order != "" {
		if err := t.own(&s.order); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// own replaces a name in any case by the column's own.
func (t *tableDef) own(name *string) error {
	for _, c := range t.columns {
		if strings.EqualFold(c.name, *name) {
			*name = c.name
			return nil
		}
	}
	return fmt.Errorf("no such column: %s", *name)
}

// list reads the values of IN.
func (p *parser) list(c *condition) error {
	if err := p.expect("("); err != nil {
		return err
	}
	for {
		v := p.next()
		if v.kind == tokEnd || v.kind == tokSymbol {
			p.pos--
			return p.syntax()
		}
		c.values = append(c.values, v.text)
		if p.accept(")") {
			return nil
		}
		if err := p.expect(","); err != nil {
			return err
		}
	}
}

// constraint operators, as osqueryd hands them to extensions.
var constraintOps = map[string]int{"=": 2, ">": 4, "<=": 8, "<": 16, ">=": 32, "like": 65, "in": 2}

func (c condition) literalOnly() bool { return c.column == "'" }

// holds checks a row.
func (c condition) holds(row map[string]string) bool {
	if c.literalOnly() {
		return compare(c.values[0], c.op, c.values[1])
	}
	got := row[c.column]
	if c.op != "in" {
		return compare(got, c.op, c.values[0])
	}
	for _, v := range c.values {
		if compare(got, "=", v) {
			return true
		}
	}
	return false
}

// compare takes numbers as numbers when both are.
func compare(a, op, b string) bool {
	if op == "like" {
		return like(a, b)
	}
	n := strings.Compare(a, b)
	x, errX := strconv.ParseFloat(a, 64)
	y, errY := strconv.ParseFloat(b, 64)
	if errX == nil && errY == nil {
		n = cmp.Compare(x, y)
	}
	switch op {
	case "=":
		return n == 0
	case "!=":
		return n != 0
	case "<":
		return n < 0
	case "<=":
		return n <= 0
	case ">":
		return n > 0
	default:
		return n >= 0
	}
}

func like(s, pattern string) bool {
	expr := regexp.QuoteMeta(pattern)
	expr = strings.ReplaceAll(strings.ReplaceAll(expr, "%", ".*"), "_", ".")
	ok, err := regexp.MatchString("(?is)^"+expr+"$", s)
	return err == nil && ok
}

// modification refuses DELETE, as tables that cannot be written do.
func (p *parser) modification() error {
	if len(p.tokens) == 3 && p.tokens[0].is("delete") && p.tokens[1].is("from") {
		return fmt.Errorf("table %s may not be modified", p.tokens[2].text)
	}
	return nil
}

func numberKind(text string) string {
	if strings.Contains(text, ".") {
		return "DOUBLE"
	}
	return "INTEGER"
}

// describe returns the names and types of the columns of one item.
func (it item) describe(t *tableDef) []column {
	switch {
	case it.star:
		return t.columns
	case it.count:
		return []column{{it.name, "BIGINT"}}
	case it.sleep >= 0:
		return []column{{it.name, "INTEGER"}}
	case it.literal != nil:
		return []column{{it.name, it.kind}}
	}
	name, kind := it.name, "TEXT"
	for _, c := range t.columns {
		if c.name == it.column {
			kind = c.kind
			if name == "" {
				name = c.name
			}
		}
	}
	return []column{{name, kind}}
}

// columns describes a statement. osqueryd wants exactly one: it explains the
// text, and stumbles over the rows of a second.
func (e *engine) columns(sql string) ([]column, error) {
	tokens, err := lex(sql)
	if err != nil {
		return nil, err
	}
	statements := splitStatements(tokens)
	switch len(statements) {
	case 0:
		return nil, errors.New("not an error")
	case 1:
		return e.describe(statements[0])
	}
	if _, err := e.describe(statements[0]); err != nil {
		return nil, err
	}
	return nil, errors.New("map::at")
}

func (e *engine) describe(statement []token) ([]column, error) {
	s, err := parseSelect(statement)
	if err != nil {
		return nil, err
	}
	t, err := e.resolve(s)
	if err != nil {
		return nil, err
	}
	var out []column
	for _, it := range s.items {
		out = append(out, it.describe(t)...)
	}
	return out, nil
}

func isInteger(kind string) bool {
	return kind == "INTEGER" || kind == "BIGINT" || kind == "UNSIGNED BIGINT"
}

// typed converts the rows of an extension to the types of their columns: text in a
// column of numbers is NULL, and columns that the table has not are dropped.
func (t *tableDef) typed(in rows) rows {
	out := make(rows, 0, len(in))
	for _, r := range in {
		row := make(map[string]string, len(t.columns))
		for _, c := range t.columns {
			v := r[c.name]
			if _, err := strconv.ParseInt(v, 0, 64); err != nil && isInteger(c.kind) {
				v = ""
			}
			row[c.name] = v
		}
		out = append(out, row)
	}
	return out
}

// numeric turns the values of number columns into JSON numbers.
func numeric(list rows, columns []column) []map[string]any {
	kinds := map[string]string{}
	for _, c := range columns {
		kinds[c.name] = c.kind
	}
	out := make([]map[string]any, 0, len(list))
	for _, r := range list {
		row := make(map[string]any, len(r))
		for k, v := range r {
			row[k] = numericValue(kinds[k], v)
		}
		out = append(out, row)
	}
	return out
}

func numericValue(kind, text string) any {
	if isInteger(kind) {
		if n, err := strconv.ParseInt(text, 10, 64); err == nil {
			return n
		}
	}
	if kind == "DOUBLE" {
		if f, err := strconv.ParseFloat(text, 64); err == nil {
			return f
		}
	}
	return text
}

// filter keeps the rows for which all conditions hold, in the order asked for.
func filter(s *selection, in rows) rows {
	out := satisfying(s.where, in)
	if s.order != "" {
		slices.SortStableFunc(out, func(a, b map[string]string) int {
			switch {
			case compare(a[s.order], "=", b[s.order]):
				return 0
			case compare(a[s.order], "<", b[s.order]) != s.desc:
				return -1
			}
			return 1
		})
	}
	return out
}

func satisfying(where []condition, in rows) rows {
	out := make(rows, 0, len(in))
	for _, r := range in {
		if !slices.ContainsFunc(where, func(c condition) bool { return !c.holds(r) }) {
			out = append(out, r)
		}
	}
	return out
}

func project(s *selection, t *tableDef, in rows) rows {
	if slices.ContainsFunc(s.items, func(i item) bool { return i.count }) {
		in = rows{{"": strconv.Itoa(len(in))}}
	}
	if s.limit >= 0 && s.limit < len(in) {
		in = in[:s.limit]
	}
	if len(s.items) == 1 && s.items[0].star && !slices.ContainsFunc(in, t.isOdd) {
		return in // nobody changes a row, and a copy of many takes memory
	}
	out := make(rows, 0, len(in))
	for _, r := range in {
		row := make(map[string]string, len(t.columns))
		for _, it := range s.items {
			it.fill(row, r, t)
		}
		out = append(out, row)
	}
	return out
}

// isOdd reports whether a row has not exactly the table's columns.
func (t *tableDef) isOdd(row map[string]string) bool {
	if len(row) != len(t.columns) {
		return true
	}
	return slices.ContainsFunc(t.columns, func(c column) bool { _, ok := row[c.name]; return !ok })
}

func (it item) fill(row, from map[string]string, t *tableDef) {
	switch {
	case it.star:
		for _, c := range t.columns {
			row[c.name] = from[c.name]
		}
	case it.count:
		row[it.name] = from[""]
	case it.sleep >= 0:
		row[it.name] = "0"
	case it.literal != nil:
		row[it.name] = *it.literal
	default:
		name := it.name
		if name == "" {
			name = it.column
		}
		row[name] = from[it.column]
	}
}
