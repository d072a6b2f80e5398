package instance_test

import (
	"strings"
	"sync/atomic"
	"testing"

	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/instance/osquerydtest"
	"github.com/osqvisor/osqvisor/stats"
)

// What the kernel killed for want of memory is told from what somebody else killed.
func TestKernelOutOfMemoryIsTold(t *testing.T) {
	t.Parallel()
	fake := osquerydtest.Start(t, osquerydtest.WithScript(fast))
	var kills atomic.Uint64
	kills.Store(5) // from before
	r := start(t, fake.Path(), instance.WithOOMKills(kills.Load))
	for _, oom := range []bool{true, false} {
		if oom {
			kills.Add(1)
		}
		kill(t, workerPID(t, r))
		if e := next[stats.WorkerReplaced](t, r.events); strings.Contains(e.Reason, "memory") != oom {
			t.Errorf("replaced because %q; out of memory: %v", e.Reason, oom)
		}
	}
	kills.Add(1)
	kill(t, r.PID())
	_ = wantExit(t, r.wait(t), stats.PhaseServe, stats.CauseOutOfMemory)
}
