package plugin

import (
	"errors"
	"fmt"
	"sync"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/internal/guard"
)

// tableSet holds the tables that are registered and those that will be.
type tableSet struct {
	mu     sync.Mutex
	next   []extension.Table
	parked map[string]bool
	active map[string]*activeTable
}

// tableCalls is how many calls of one table can be under way.
const tableCalls = 16

// activeTable is a table that is registered.
type activeTable struct {
	extension.Table
	busy guard.Slot // lets tableCalls through
}

func newTableSet(tables []extension.Table) *tableSet {
	return &tableSet{next: tables, parked: map[string]bool{}, active: map[string]*activeTable{}}
}

// set replaces the tables, from the next registration on, and frees parked names.
func (t *tableSet) set(tables []extension.Table) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.next = append([]extension.Table(nil), tables...)
	t.parked = map[string]bool{}
}

func (t *tableSet) park(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.parked[name] = true
}

// candidates returns the tables for a registration.
func (t *tableSet) candidates() []extension.Table {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]extension.Table(nil), t.next...)
}

func (t *tableSet) isParked(name string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.parked[name]
}

// activate puts tables in force. One that was in force already keeps its calls.
func (t *tableSet) activate(tables map[string]extension.Table) {
	t.mu.Lock()
	defer t.mu.Unlock()
	active := make(map[string]*activeTable, len(tables))
	for name, table := range tables {
		a := &activeTable{Table: table, busy: make(guard.Slot, tableCalls)}
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

// checkTables returns what is wrong with tables.
func checkTables(tables []extension.Table) []error {
	var errs []error
	seen := map[string]bool{}
	for i, t := range tables {
		name, err := checkTable(t)
		if err == nil && seen[name] {
			err = fmt.Errorf("%q is there twice; a name can be used once", name)
		}
		seen[name] = true
		if err != nil {
			errs = append(errs, fmt.Errorf("table %d: %w", i+1, err))
		}
	}
	return errs
}

func checkTable(t extension.Table) (name string, err error) {
	if isNil(t) {
		return "", errors.New("it is nil")
	}
	err = guard.Contain("the table", func() error {
		name = t.Name()
		switch {
		case !validTableName(name):
			return fmt.Errorf("%q is not a table name; use letters, digits and '_', no digit first", name)
		case t.RegistryName() != "table":
			return fmt.Errorf("%q is for the registry %q; only tables can be added", name, t.RegistryName())
		case len(t.Routes()) == 0:
			return fmt.Errorf("%q has no columns; osqueryd refuses such a table", name)
		}
		return nil
	})
	return name, err
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
