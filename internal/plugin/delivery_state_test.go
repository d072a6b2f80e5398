package plugin

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/stats"
)

// summary is what a health endpoint would show of the rig, were osqueryd ready.
func (r *rig) summary() stats.InstanceHealth {
	s := stats.Snapshot{Instance: "a", State: stats.StateReady}
	s.Queues, s.Calls = r.Delivery()
	return stats.Summarize([]stats.Snapshot{s}).Instances[0]
}

func (r *rig) queueState(name extension.Queue) stats.QueueState {
	r.t.Helper()
	queues, _ := r.Delivery()
	for _, q := range queues {
		if q.Queue == string(name) {
			return q
		}
	}
	r.t.Fatalf("no queue %s", name)
	return stats.QueueState{}
}

func TestTrial35QueueStates(t *testing.T) {
	bubble(t, func(t *testing.T) {
		dir, s := t.TempDir(), &sink{}
		s.set(func(extension.Batch) error { return errDown })
		r := newRig(t, dir, logsTo(s), withLogBatch(10, 1<<20, 0))
		stop := r.start()
		equal(t, "before the first line", r.queueState(extension.QueueResults), stats.QueueState{Queue: "results"})
		pass(5 * time.Hour)
		r.logLines(3)
		pass(time.Hour)
		got := r.queueState(extension.QueueResults)
		equal(t, "lines", got.Lines, 3)
		equal(t, "bytes", got.Bytes, int64(3*len(`{"n":0}`)))
		if got.Age < time.Hour || got.Age > time.Hour+time.Minute {
			t.Errorf("the oldest waits for %v, want an hour", got.Age)
		}
		equal(t, "error", got.LastError, errDown.Error())
		if got.Tries < 10 || !got.LastSuccess.IsZero() || time.Since(got.LastFailure) > 7*time.Minute {
			t.Errorf("%+v", got)
		}
		h := r.summary()
		if h.Healthy || !h.Degraded || !strings.Contains(h.Reason, "results has 3 waiting, the oldest for 1h0m") {
			t.Errorf("%+v", h)
		}
		equal(t, "the queue beside it", r.queueState(extension.QueueStatus).Lines, 0)

		s.set(nil)
		pass(10 * time.Minute)
		synctest.Wait()
		got = r.queueState(extension.QueueResults)
		if got.Lines != 0 || got.Bytes != 0 || got.Age != 0 || got.Tries != 0 || time.Since(got.LastSuccess) > 10*time.Minute {
			t.Errorf("after the outage: %+v", got)
		}
		if h := r.summary(); !h.Healthy || h.Degraded || h.Reason != "" {
			t.Errorf("after the outage: %+v", h)
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		r.logLines(2)
		pass(time.Hour)
		r.shut()
		equal(t, "lines of a closed queue", r.queueState(extension.QueueResults).Lines, 2)
		r = newRig(t, dir, logsTo(s))
		pass(time.Minute)
		got = r.queueState(extension.QueueResults)
		if got.Lines != 2 || got.Bytes == 0 || got.Age != time.Minute {
			t.Errorf("after a restart: %+v", got)
		}
	})
}

// A batch that goes out while others come does not make what waits look older than it is.
func TestTrial35AgeOfABacklog(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tr := extension.Funcs{LogsFunc: func(ctx context.Context, _ extension.Node, _ extension.Batch) error {
			select {
			case <-time.After(10 * time.Second):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}}
		r := newRig(t, t.TempDir(), withTransport(tr), withLogBatch(1, 1<<20, 0), withDrain(0))
		r.start()
		for range 60 {
			r.logLines(2)
			pass(10 * time.Second)
		}
		synctest.Wait()
		got := r.queueState(extension.QueueResults)
		equal(t, "lines", got.Lines, 60)
		if got.Age < 4*time.Minute || got.Age > 6*time.Minute {
			t.Errorf("the oldest of %d lines waits for %v, want 5 minutes", got.Lines, got.Age)
		}
	})
}

// A node that is refused enrolment, and a server that is away, are not healthy.
func TestTrial17RefusedEnrolmentIsDegraded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		mem := extension.NewMemory()
		var accept atomic.Bool
		mem.Fail(func(call string, _ extension.Node) error {
			if call == callEnroll && !accept.Load() {
				return errors.New("wrong secret")
			}
			return nil
		})
		r := newRig(t, t.TempDir(), withTransport(mem))
		r.start()
		r.config()
		synctest.Wait()
		h := r.summary()
		if h.Healthy || !h.Degraded || !strings.Contains(h.Reason, "not enrolled: enrol: wrong secret") {
			t.Errorf("%+v", h)
		}
		accept.Store(true)
		pass(time.Hour)
		r.config()
		synctest.Wait()
		if h := r.summary(); !h.Healthy || h.Degraded {
			t.Errorf("after the enrolment: %+v", h)
		}
	})
}

func TestTrial17OutageIsDegraded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		mem := extension.NewMemory()
		r := newRig(t, t.TempDir(), withTransport(mem))
		r.start()
		r.config()
		if h := r.summary(); !h.Healthy {
			t.Errorf("before the outage: %+v", h)
		}
		mem.Fail(func(string, extension.Node) error { return errDown })
		r.config()
		h := r.summary()
		if h.Healthy || !h.Degraded || !strings.Contains(h.Reason, "last good config") || !strings.Contains(h.Reason, errDown.Error()) {
			t.Errorf("with the config's source away: %+v", h)
		}
		for range 3 {
			r.getQueries()
		}
		if h := r.summary(); !strings.Contains(h.Reason, "no distributed queries") {
			t.Errorf("with everything away: %+v", h)
		}
		mem.Fail(nil)
		r.config()
		r.getQueries()
		if h := r.summary(); !h.Healthy {
			t.Errorf("after the outage: %+v", h)
		}
		mem.SetConfig("a", map[string]string{"memory": "{"})
		r.config()
		if h := r.summary(); h.Healthy || !strings.Contains(h.Reason, "last good config") {
			t.Errorf("with a config that is refused: %+v", h)
		}
	})
}
