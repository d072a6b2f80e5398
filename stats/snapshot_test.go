package stats_test

import (
	"os"
	"testing"
	"time"

	"github.com/osqvisor/osqvisor/stats"
)

func ExampleWriteTable() {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	_ = stats.WriteTable(os.Stdout, []stats.Snapshot{
		{Instance: "vendor", State: stats.StateReady, Run: &stats.Run{PID: 77, Started: now.Add(-time.Minute)}},
		{Instance: "tenant-a", State: stats.StateBackoff, History: []stats.Run{{Cause: stats.CauseSignal}}},
	}, now)
	// Output:
	// INSTANCE  STATE    PID  UP    RESTARTS  QUERIES  LINES IN  LINES OUT  LAST END
	// vendor    ready    77   1m0s  0         0        0         0          -
	// tenant-a  backoff  -    -     0         0        0         0          signal
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, os.ErrClosed }

func TestWriteTableReportsTheWriter(t *testing.T) {
	if err := stats.WriteTable(failingWriter{}, []stats.Snapshot{{}}, time.Now()); err == nil {
		t.Error("a writer that fails was not reported")
	}
}
