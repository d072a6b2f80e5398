package instance_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/osqvisor/osqvisor/internal/testhelp"
	"github.com/osqvisor/osqvisor/stats"
)

// osqueryd puts a database that it cannot read aside and begins a new one, under another id of its own.
func TestCorruptDatabaseIsTold(t *testing.T) {
	each(t, func(t *testing.T, binary string) {
		testhelp.CheckLeaks(t)
		r := start(t, binary)
		before := next[stats.RunReady](t, r.events).InstanceID
		r.stop()
		if err := r.wait(t); err != nil {
			t.Fatal(err)
		}
		database := filepath.Join(r.Directory(), "osquery.db")
		if err := os.WriteFile(filepath.Join(database, "CURRENT"), []byte("rubbish"), 0o600); err != nil {
			t.Fatal(err)
		}
		r.again(t)
		told := next[stats.DatabaseReplaced](t, r.events)
		if told.Backup != database+".backup" {
			t.Errorf("the old one is said to be at %q", told.Backup)
		}
		if err := r.WaitReady(patient(t)); err != nil {
			t.Fatal(err)
		}
		if after := next[stats.RunReady](t, r.events).InstanceID; after == "" || after == before {
			t.Errorf("osquery's id was %q and is %q", before, after)
		}
		if n := r.Snapshot().Totals.Databases; n != 1 {
			t.Errorf("%d databases were replaced, want 1", n)
		}
	})
}

// again runs an instance whose run has ended well.
func (r *running) again(t *testing.T) {
	t.Helper()
	if err := <-r.done; err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	go func() { r.done <- r.Run(ctx) }()
}
