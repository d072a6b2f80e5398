package runtime_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/internal/plugin"
	"github.com/osqvisor/osqvisor/internal/testhelp"
	"github.com/osqvisor/osqvisor/runtime"
	"github.com/osqvisor/osqvisor/stats"
)

// TestTrial23InstancesOfARunnerShareAPace: a third of what a minute takes enrols at once, the others follow.
func TestTrial23InstancesOfARunnerShareAPace(t *testing.T) {
	const atOnce = plugin.DefaultEnrollRate / 3
	mem := extension.NewMemory()
	opts := []runtime.Option{runtime.WithInstanceDefaults(instance.WithTransport(mem))}
	var ids []string
	for i := range atOnce + 1 {
		ids = append(ids, fmt.Sprintf("tenant-%d", i))
		opts = append(opts, runtime.WithInstance(ids[i]))
	}
	h := newHost(t, fakeWith(t), opts...)
	h.run(t)
	var times []time.Time
	for _, id := range ids {
		times = append(times, testhelp.WaitEvents[stats.Enrolled](t, h.events, id, 1)[0].Time)
	}
	slices.SortFunc(times, time.Time.Compare)
	if d := times[atOnce].Sub(times[0]); d < 5*time.Second {
		t.Errorf("%d instances enrolled within %v", atOnce+1, d)
	}
}
