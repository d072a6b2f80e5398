package instance_test

import (
	"strings"
	"testing"

	"github.com/osqvisor/osqvisor/instance/osquerydtest"
	"github.com/osqvisor/osqvisor/stats"
)

// A worker that the watchdog stops is told of with numbers, is replaced in place, and
// the replacement names the reason, once.
func TestWatchdogKillIsTold(t *testing.T) {
	t.Parallel()
	fake := osquerydtest.Start(t, osquerydtest.WithScript(fast))
	r := start(t, fake.Path())
	for kind, resource := range map[osquerydtest.Kind]string{osquerydtest.WatchdogMemory: "memory", osquerydtest.WatchdogCPU: "cpu"} {
		p, err := fake.WaitWorker(patient(t), "")
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Do(patient(t), osquerydtest.Action{Do: kind}); err != nil {
			t.Fatal(err)
		}
		e := next[stats.WatchdogKilled](t, r.events)
		if e.Resource != resource || e.Limit == 0 {
			t.Errorf("%+v", e)
		}
		if e := next[stats.WorkerReplaced](t, r.events); !strings.Contains(strings.ToLower(e.Reason), resource) {
			t.Errorf("replaced because %q, want something of %s", e.Reason, resource)
		}
	}
	kill(t, workerPID(t, r))
	if e := next[stats.WorkerReplaced](t, r.events); e.Reason != "" {
		t.Errorf("a worker that was killed from outside was replaced because %q", e.Reason)
	}
}
