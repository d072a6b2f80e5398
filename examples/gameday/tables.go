package main

import (
	"context"
	"sync"

	"github.com/osquery/osquery-go/plugin/table"

	"github.com/osqvisor/osqvisor/extension"
)

// tableName is the host's own table, which every instance has.
const tableName = "gameday_table"

// tables are the host's plugins, which panic when they are told to. It is safe for
// concurrent use.
type tables struct {
	mu    sync.Mutex
	shaky map[string]bool
}

func (t *tables) of(id string) extension.Table {
	columns := []table.ColumnDefinition{table.TextColumn("instance")}
	return table.NewPlugin(tableName, columns, func(context.Context, table.QueryContext) ([]map[string]string, error) {
		t.mu.Lock()
		shaky := t.shaky[id]
		t.mu.Unlock()
		if shaky {
			panic("gameday: the host's table panics")
		}
		return []map[string]string{{"instance": id}}, nil
	})
}

func (t *tables) shake(id string, on bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.shaky == nil {
		t.shaky = map[string]bool{}
	}
	t.shaky[id] = on
}
