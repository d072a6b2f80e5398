package plugin

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/osqvisor/osqvisor/extension"
)

// TestSyncChoices counts the flushes of each choice over lines that come one by one.
func TestSyncChoices(t *testing.T) {
	const lines, interval = 20, time.Minute
	for name, c := range map[string]struct {
		opts                []option // newRig says SyncNever
		atOnce, least, most uint64
	}{
		"each line":  {[]option{withSync(extension.SyncEachLine)}, lines, lines, lines + 1},
		"interval":   {[]option{withSync(interval)}, 0, 1, 2},
		"never":      {nil, 0, 0, 0},
		"by default": {[]option{withSync(0)}, 0, 1, 2},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t, t.TempDir(), append(c.opts, logsTo(&sink{fail: func(extension.Batch) error { return errDown }}))...)
				r.logLines(lines)
				equal(t, "flushes before osqueryd was answered", r.shippers[0].Store.Stats().Syncs, c.atOnce)
				pass(2 * interval)
				synctest.Wait()
				if got := r.shippers[0].Store.Stats().Syncs; got < c.least || got > c.most {
					t.Errorf("%d flushes of %d lines, want %d to %d", got, lines, c.least, c.most)
				}
			})
		})
	}
}
