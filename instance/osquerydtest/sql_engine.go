package osquerydtest

import (
	"fmt"
	"slices"
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
	for _, t := range w.p.script.Tables {
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
			e.w.p.delay(time.Duration(it.sleep * float64(time.Second)))
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
