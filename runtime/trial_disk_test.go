package runtime_test

import (
	"testing"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/internal/testhelp"
	"github.com/osqvisor/osqvisor/runtime"
	"github.com/osqvisor/osqvisor/stats"
)

// The queues of a Runner's instances share the budget of WithDisk: with none left, a result is announced as lost.
func TestTrial36RunnerHasABudget(t *testing.T) {
	mem := extension.NewMemory()
	mem.SetConfig("tenant", map[string]string{"main": `{"schedule":{"q":{"query":"select 1","interval":1,"snapshot":true}}}`})
	h := newHost(t, fakeWith(t), runtime.WithInstance("tenant"), runtime.WithDisk(extension.DiskLimits{MinFree: 1 << 60}),
		runtime.WithInstanceDefaults(instance.WithTransport(mem)))
	h.run(t)
	lost := testhelp.WaitEvents[stats.LogsDropped](t, h.events, "tenant", 1)
	if lost[0].Lines == 0 || lost[0].Reason != "not written to the queue: the queue is full" {
		t.Errorf("announced: %+v", lost[0])
	}
}
