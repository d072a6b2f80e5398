package runtime_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/instance/osquerydtest"
	"github.com/osqvisor/osqvisor/internal/testhelp"
	"github.com/osqvisor/osqvisor/runtime"
	"github.com/osqvisor/osqvisor/stats"
)

// A node that the server refuses throughout is ready, and not healthy; nothing else is wrong.
func TestTrial17RefusedNodeIsNotHealthy(t *testing.T) {
	each(t, func(t *testing.T, d osqueryd) {
		mem := extension.NewMemory()
		mem.Fail(func(string, extension.Node) error { return errors.New("refused") })
		h := newHost(t, d, runtime.WithTransport(mem), runtime.WithInstance("a"))
		h.run(t)
		h.ready(t, "a")
		testhelp.WaitEvents[stats.TransportFailed](t, h.events, "a", 1)
		got := h.Healthy()
		if got.Healthy || !got.Degraded || !got.Instances[0].Degraded || !strings.Contains(got.Instances[0].Reason, "not enrolled") {
			t.Errorf("%+v", got)
		}
		if err := got.Err(); err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("Err() is %v", err)
		}
		h.stop()
	})
}

// A snapshot names the queries that osqueryd refuses to run.
func TestTrial35DenylistedQueriesAreNamed(t *testing.T) {
	d := fakeWith(t, osquerydtest.Rule{
		Phase: osquerydtest.PhaseScheduled, Match: "heavy", Worker: 1,
		Action: osquerydtest.Action{Do: osquerydtest.Delay, Delay: 5 * time.Second},
	})
	mem := extension.NewMemory()
	mem.SetConfig("a", map[string]string{"memory": `{"schedule":{
		"heavy":{"query":"select 1","interval":1},"light":{"query":"select 2","interval":600000}}}`})
	h := newHost(t, d, runtime.WithTransport(mem),
		runtime.WithInstance("a", instance.WithHealth(instance.Health{
			Interval: 50 * time.Millisecond, Timeout: 10 * time.Second, Failures: 10,
		})))
	h.run(t)
	h.ready(t, "a")
	if got := snapshotOf(t, h, "a").Denylisted; len(got) != 0 {
		t.Errorf("denylisted before the kill: %v", got)
	}
	w, err := d.fake.WaitWorker(testhelp.Context(t), "a")
	if err != nil {
		t.Fatal(err)
	}
	until(t, "the query runs", func() bool {
		s, err := w.Stats(testhelp.Context(t))
		return err == nil && s.Scheduled > 0
	})
	if err := w.Do(testhelp.Context(t), osquerydtest.Action{Do: osquerydtest.WatchdogMemory}); err != nil {
		t.Fatal(err)
	}
	until(t, "the query is denylisted", func() bool {
		return slices.Equal(snapshotOf(t, h, "a").Denylisted, []string{"heavy"})
	})
	if n := len(snapshotOf(t, h, "a").Queues); n != 4 {
		t.Errorf("the snapshot tells of %d queues", n)
	}
	h.stop()
}

// until waits for something that no event tells.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	ctx := testhelp.Context(t)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

func snapshotOf(t *testing.T, h *host, id string) stats.Snapshot {
	t.Helper()
	for _, s := range h.Snapshots() {
		if s.Instance == id {
			return s
		}
	}
	t.Fatalf("no snapshot of %s", id)
	return stats.Snapshot{}
}
