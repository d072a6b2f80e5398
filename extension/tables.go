package extension

import (
	"context"
	"fmt"
	"sync"

	"github.com/osquery/osquery-go/gen/osquery"
)

// Table is a table of the host: what osquery-go calls a plugin, of the registry
// "table". A *table.Plugin of osquery-go is one. Call may be called from several
// goroutines at once; it must return when its context ends. A panic in a method
// is caught: it fails that one query. Shutdown is never called: a value may be
// shared and outlive an instance.
type Table interface {
	Name() string
	RegistryName() string
	Routes() osquery.ExtensionPluginResponse
	Ping() osquery.ExtensionStatus
	Call(context.Context, osquery.ExtensionPluginRequest) osquery.ExtensionResponse
	Shutdown()
}

// tableSet holds the tables that are registered and those that will be.
type tableSet struct {
	mu     sync.Mutex
	next   []Table
	parked map[string]bool
	active map[string]*activeTable
}

// tableCalls is how many calls of one table can be under way.
const tableCalls = 16

// activeTable is a table that is registered.
type activeTable struct {
	Table
	busy slot // lets tableCalls through
}

func newTableSet(tables []Table) *tableSet {
	return &tableSet{next: tables, parked: map[string]bool{}, active: map[string]*activeTable{}}
}

// set replaces the tables, from the next registration on, and frees parked names.
func (t *tableSet) set(tables []Table) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.next = append([]Table(nil), tables...)
	t.parked = map[string]bool{}
}

func (t *tableSet) park(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.parked[name] = true
}

// candidates gives the tables for a registration.
func (t *tableSet) candidates() []Table {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]Table(nil), t.next...)
}

func (t *tableSet) isParked(name string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.parked[name]
}

// activate puts tables in force. One that was in force already keeps its calls.
func (t *tableSet) activate(tables map[string]Table) {
	t.mu.Lock()
	defer t.mu.Unlock()
	active := make(map[string]*activeTable, len(tables))
	for name, table := range tables {
		a := &activeTable{Table: table, busy: make(slot, tableCalls)}
		if old := t.active[name]; old != nil {
			a.busy = old.busy
		}
		active[name] = a
	}
	t.active = active
}

func (t *tableSet) find(name string) (*activeTable, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	table, ok := t.active[name]
	return table, ok
}

// checkTables gives what is wrong with tables, in the name of the option.
func checkTables(option string, tables []Table) []error {
	var errs []error
	seen := map[string]bool{}
	for i, t := range tables {
		name, err := checkTable(t)
		if err == nil && seen[name] {
			err = fmt.Errorf("%q is there twice; a name can be used once", name)
		}
		seen[name] = true
		if err != nil {
			errs = append(errs, fmt.Errorf("extension.%s: table %d: %w", option, i+1, err))
		}
	}
	return errs
}

func checkTable(t Table) (name string, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("it panicked when it was asked about itself: %v", r)
		}
	}()
	if isNil(t) {
		return "", fmt.Errorf("it is nil")
	}
	name = t.Name()
	switch {
	case !validTableName(name):
		return name, fmt.Errorf("%q is not a table name; use letters, digits and '_', no digit first", name)
	case t.RegistryName() != "table":
		return name, fmt.Errorf("%q is for the registry %q; only tables can be added", name, t.RegistryName())
	case len(t.Routes()) == 0:
		return name, fmt.Errorf("%q has no columns; osqueryd refuses such a table", name)
	}
	return name, nil
}

func validTableName(s string) bool {
	for i, r := range s {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r == '_'
		if !letter && (i == 0 || r < '0' || r > '9') {
			return false
		}
	}
	return s != "" && len(s) <= 64
}
