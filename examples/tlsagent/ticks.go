package main

import (
	"context"
	"strconv"
	"sync"

	"github.com/osquery/osquery-go/plugin/table"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/internal/tlstrial"
)

// ticksAtOnce is how many rows, and so lines, each run of the query makes.
const ticksAtOnce = 20

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

// ticks is a table of the host: a counter. Its methods are safe for concurrent use.
type ticks struct {
	// report is called before osqueryd is handed these numbers.
	report func(first, last uint64) error

	mu          sync.Mutex
	first, next uint64
	paused      bool
}

func newTicks(from uint64, report func(first, last uint64) error) *ticks {
	return &ticks{report: report, first: from, next: from}
}

func (t *ticks) table() extension.Table {
	return table.NewPlugin(tlstrial.TableName, []table.ColumnDefinition{table.BigIntColumn("n")}, t.generate)
}

func (t *ticks) pause() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.paused = true
}

// generate returns the rows to osqueryd.
func (t *ticks) generate(context.Context, table.QueryContext) ([]map[string]string, error) {
	first, next := t.advance()
	if err := t.report(first, next-1); err != nil {
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
