package main

import (
	"context"
	"encoding/json"
	"strconv"
	"sync"

	"github.com/osquery/osquery-go/plugin/table"

	"github.com/osqvisor/osqvisor/extension"
)

const (
	ticksName = "ticks"
	// ticksAtOnce is how many rows, and so lines, each run of the query makes.
	ticksAtOnce = 20
)

// ticksConfig schedules the table. Of a table whose rows are all new each time, the
// differential results are all its rows. The query would be denylisted for a day
// if osqueryd were killed while it runs.
const ticksConfig = `{"schedule": {"ticks": {"query": "select n from ticks", "interval": 1, "removed": false, "denylist": false}}}`

// withTicks is a policy that adds the schedule to whatever the server sends.
func withTicks(_ context.Context, _ extension.Node, config map[string]string) (map[string]string, error) {
	out := map[string]string{"tlsagent": ticksConfig}
	for source, text := range config {
		out[source] = text
	}
	return out, nil
}

// numberOf gives the number in a line that osqueryd logged for the table.
func numberOf(line []byte) (uint64, bool) {
	var l struct {
		Name    string            `json:"name"`
		Columns map[string]string `json:"columns"`
	}
	if err := json.Unmarshal(line, &l); err != nil || l.Name != ticksName {
		return 0, false
	}
	n, err := strconv.ParseUint(l.Columns["n"], 10, 64)
	return n, err == nil
}

// ticks is a table of the host: a counter. Its methods are safe for concurrent use.
type ticks struct {
	// tell says that osqueryd is handed these numbers.
	tell func(first, last uint64) error

	mu          sync.Mutex
	first, next uint64
	paused      bool
}

func newTicks(from uint64, tell func(first, last uint64) error) *ticks {
	return &ticks{tell: tell, first: from, next: from}
}

func (t *ticks) table() extension.Table {
	return table.NewPlugin(ticksName, []table.ColumnDefinition{table.BigIntColumn("n")}, t.generate)
}

func (t *ticks) pause() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.paused = true
}

// generate is osqueryd's call for the rows.
func (t *ticks) generate(context.Context, table.QueryContext) ([]map[string]string, error) {
	first, next := t.advance()
	if err := t.tell(first, next-1); err != nil {
		return nil, err
	}
	rows := make([]map[string]string, 0, next-first)
	for n := first; n < next; n++ {
		rows = append(rows, map[string]string{"n": strconv.FormatUint(n, 10)})
	}
	return rows, nil
}

func (t *ticks) advance() (first, next uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.paused {
		t.first, t.next = t.next, t.next+ticksAtOnce
	}
	return t.first, t.next
}
