package record

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/osqvisor/osqvisor/stats"
)

var epoch = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

// at is the head of an event of instance "a", s seconds in.
func at(s int, run string) stats.Head {
	return stats.Head{Time: epoch.Add(time.Duration(s) * time.Second), Instance: "a", Run: run}
}

const testHistory = 16

func observe(t *testing.T, r *Recorder, events ...stats.Event) stats.Snapshot {
	t.Helper()
	for _, e := range events {
		r.Observe(t.Context(), e)
	}
	return r.Snapshot()
}

// TestRecorderStates tells a story step by step and looks at the last state.
func TestRecorderStates(t *testing.T) {
	boom := errors.New("boom")
	start := []stats.Event{stats.InstanceAdded{Head: at(0, "")}, stats.RunStarting{Head: at(1, "r1")}}
	ready := append(start[:2:2], stats.RunReady{Head: at(2, "r1")})
	failed := append(ready[:3:3], stats.RunEnded{Head: at(3, "r1"), Cause: stats.CauseExit, Err: boom})
	stopped := append(ready[:3:3], stats.RunStopping{Head: at(3, "r1")}, stats.RunEnded{Head: at(4, "r1"), Cause: stats.CauseRequested})
	removed := append(stopped[:5:5], stats.InstanceRemoved{Head: at(5, "")})
	for name, c := range map[string]struct {
		before []stats.Event
		then   []stats.Event
		want   stats.State
		since  int // seconds
		err    string
		run    bool
	}{
		"nothing yet":             {nil, []stats.Event{nil}, stats.StateIdle, -1, "", false},
		"added":                   {nil, start[:1], stats.StateIdle, 0, "", false},
		"starting":                {start, nil, stats.StateStarting, 1, "", true},
		"ready":                   {ready, nil, stats.StateReady, 2, "", true},
		"ready twice":             {ready, []stats.Event{stats.RunReady{Head: at(3, "r1")}}, stats.StateReady, 2, "", true},
		"registration lost":       {ready, []stats.Event{stats.RegistrationLost{Head: at(3, "r1")}}, stats.StateUnhealthy, 3, "registration lost", true},
		"registration restored":   {ready, []stats.Event{stats.RegistrationLost{Head: at(3, "r1"), Err: boom}, stats.RegistrationRestored{Head: at(4, "r1")}}, stats.StateReady, 4, "boom", true},
		"health failed twice":     {ready, []stats.Event{stats.HealthFailed{Head: at(3, "r1"), InARow: 1}, stats.HealthFailed{Head: at(4, "r1"), Err: boom, InARow: 2}}, stats.StateUnhealthy, 3, "boom", true},
		"health recovered":        {ready, []stats.Event{stats.HealthFailed{Head: at(3, "r1"), Err: boom, InARow: 1}, stats.HealthRecovered{Head: at(4, "r1")}}, stats.StateReady, 4, "boom", true},
		"worker lost":             {ready, []stats.Event{stats.WorkerLost{Head: at(3, "r1")}}, stats.StateUnhealthy, 3, "worker lost", true},
		"worker replaced":         {ready, []stats.Event{stats.WorkerLost{Head: at(3, "r1")}, stats.WorkerReplaced{Head: at(4, "r1")}}, stats.StateReady, 4, "worker lost", true},
		"event without a run id":  {ready, []stats.Event{stats.WorkerLost{Head: at(3, "")}}, stats.StateUnhealthy, 3, "worker lost", true},
		"stopping":                {ready, []stats.Event{stats.RunStopping{Head: at(3, "r1")}}, stats.StateStopping, 3, "", true},
		"stopped":                 {stopped, nil, stats.StateStopped, 4, "", false},
		"stop clears the error":   {ready, []stats.Event{stats.HealthFailed{Head: at(3, "r1"), Err: boom, InARow: 1}, stats.RunEnded{Head: at(4, "r1"), Cause: stats.CauseRequested}}, stats.StateStopped, 4, "", false},
		"failed, nothing decided": {failed, nil, stats.StateStopped, 3, "boom", false},
		"failed while starting":   {start, []stats.Event{stats.RunEnded{Head: at(2, "r1"), Cause: stats.CauseStartTimeout}}, stats.StateStopped, 2, "start timeout", false},
		"backoff":                 {failed, []stats.Event{stats.RestartScheduled{Head: at(4, ""), Delay: time.Second}}, stats.StateBackoff, 4, "boom", false},
		"parked":                  {failed, []stats.Event{stats.InstanceParked{Head: at(4, "")}}, stats.StateParked, 4, "unknown", false},
		"parked without a run":    {start[:1], []stats.Event{stats.InstanceParked{Head: at(1, ""), Cause: stats.CauseBinaryMissing}}, stats.StateParked, 1, "binary missing", false},
		"resumed":                 {failed, []stats.Event{stats.InstanceParked{Head: at(4, "")}, stats.InstanceResumed{Head: at(5, "")}}, stats.StateIdle, 5, "unknown", false},
		"updated when parked":     {failed, []stats.Event{stats.InstanceParked{Head: at(4, "")}, stats.InstanceUpdated{Head: at(5, "")}}, stats.StateIdle, 5, "unknown", false},
		"updated while it runs":   {ready, []stats.Event{stats.InstanceUpdated{Head: at(5, "")}}, stats.StateReady, 2, "", true},
		"removed":                 {removed, nil, stats.StateStopped, 4, "", false},
		"added again":             {removed, []stats.Event{stats.InstanceAdded{Head: at(6, "")}}, stats.StateIdle, 6, "", false},

		"health failed while starting":     {start, []stats.Event{stats.HealthFailed{Head: at(2, "r1"), Err: boom, InARow: 1}}, stats.StateStarting, 1, "", true},
		"mended while starting":            {start, []stats.Event{stats.RegistrationRestored{Head: at(2, "r1")}}, stats.StateStarting, 1, "", true},
		"health failed while stopping":     {ready, []stats.Event{stats.RunStopping{Head: at(3, "r1")}, stats.HealthFailed{Head: at(4, "r1"), Err: boom, InARow: 1}}, stats.StateStopping, 3, "", true},
		"worker replaced while stopping":   {ready, []stats.Event{stats.RunStopping{Head: at(3, "r1")}, stats.WorkerReplaced{Head: at(4, "r1")}}, stats.StateStopping, 3, "", true},
		"ready while stopping":             {start, []stats.Event{stats.RunStopping{Head: at(2, "r1")}, stats.RunReady{Head: at(3, "r1")}}, stats.StateStopping, 2, "", true},
		"health failed after the end":      {stopped, []stats.Event{stats.HealthFailed{Head: at(5, "r1"), Err: boom, InARow: 1}}, stats.StateStopped, 4, "", false},
		"recovered after the end":          {failed, []stats.Event{stats.HealthRecovered{Head: at(5, "r1")}, stats.HealthRecovered{Head: at(5, "")}}, stats.StateStopped, 3, "boom", false},
		"ready after the end":              {failed, []stats.Event{stats.RunReady{Head: at(5, "r1")}}, stats.StateStopped, 3, "boom", false},
		"starting after the end":           {failed, []stats.Event{stats.RunStarting{Head: at(5, "r1")}}, stats.StateStopped, 3, "boom", false},
		"stopping after the end":           {failed, []stats.Event{stats.RunStopping{Head: at(5, "r1")}}, stats.StateStopped, 3, "boom", false},
		"ended twice":                      {failed, []stats.Event{stats.RunEnded{Head: at(5, "r1"), Cause: stats.CauseRequested}}, stats.StateStopped, 3, "boom", false},
		"end after the parking":            {ready, []stats.Event{stats.InstanceParked{Head: at(3, "r1"), Err: boom}, stats.RunEnded{Head: at(4, "r1"), Cause: stats.CauseExit}}, stats.StateParked, 3, "exit", false},
		"end after the scheduling":         {ready, []stats.Event{stats.RestartScheduled{Head: at(3, "r1")}, stats.RunEnded{Head: at(4, "r1"), Cause: stats.CauseExit}}, stats.StateBackoff, 3, "exit", false},
		"ready while parked":               {start, []stats.Event{stats.InstanceParked{Head: at(3, "r1"), Err: boom}, stats.RunReady{Head: at(4, "r1")}}, stats.StateParked, 3, "boom", true},
		"scheduled after the removal":      {removed, []stats.Event{stats.RestartScheduled{Head: at(6, "")}}, stats.StateStopped, 4, "", false},
		"parked after the removal":         {removed, []stats.Event{stats.InstanceParked{Head: at(6, ""), Err: boom}}, stats.StateStopped, 4, "", false},
		"resumed after the removal":        {removed, []stats.Event{stats.InstanceResumed{Head: at(6, "")}}, stats.StateStopped, 4, "", false},
		"an older run":                     {failed, []stats.Event{stats.RunStarting{Head: at(5, "r2")}, stats.RunReady{Head: at(6, "r1")}, stats.HealthFailed{Head: at(6, "r1"), Err: boom, InARow: 1}}, stats.StateStarting, 5, "boom", true},
		"another instance":                 {ready, []stats.Event{stats.RunStopping{Head: stats.Head{Instance: "b", Run: "r1"}}}, stats.StateReady, 2, "", true},
		"ready, its start was lost":        {failed, []stats.Event{stats.RunReady{Head: at(9, "r2"), Elapsed: time.Second}}, stats.StateReady, 9, "boom", true},
		"process, its start was lost":      {failed, []stats.Event{stats.ProcessStarted{Head: at(9, "r2"), PID: 7}}, stats.StateStarting, 9, "boom", true},
		"removed, the end was lost":        {ready, []stats.Event{stats.InstanceRemoved{Head: at(9, "")}}, stats.StateStopped, 9, "", false},
		"ready after removal without end":  {ready, []stats.Event{stats.InstanceRemoved{Head: at(9, "")}, stats.RunReady{Head: at(10, "r1")}}, stats.StateStopped, 9, "", false},
		"registration while it is stopped": {stopped, []stats.Event{stats.ExtensionRegistered{Head: at(9, "r2")}}, stats.StateStopped, 4, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			s := observe(t, New("a", testHistory), append(c.before[:len(c.before):len(c.before)], c.then...)...)
			since := at(c.since, "").Time
			if c.since < 0 {
				since = time.Time{}
			}
			if s.State != c.want || !s.Since.Equal(since) || s.LastError != c.err || (s.Run != nil) != c.run {
				t.Errorf("state %q since %v, error %q, run %v; want %q since %v, %q, %v",
					s.State, s.Since, s.LastError, s.Run, c.want, since, c.err, c.run)
			}
		})
	}
}

func TestRecorderRun(t *testing.T) {
	r := New("a", testHistory)
	s := observe(t, r,
		stats.RunStarting{Head: at(1, "r1"), Binary: "/bin/osqueryd", Version: "5.9"},
		stats.ProcessStarted{Head: at(2, "r1"), PID: 7},
		stats.ExtensionRegistered{Head: at(3, "r1")},
		stats.RunReady{Head: at(4, "r1"), PID: 8, Elapsed: 3 * time.Second, Version: "5.9.1", InstanceID: "uuid"},
		stats.WorkerLost{Head: at(5, "r1")},
		stats.ExtensionRegistered{Head: at(6, "r1"), Again: true},
		stats.WorkerReplaced{Head: at(6, "r1")},
	)
	want := stats.Run{ID: "r1", PID: 8, Started: at(1, "").Time, Ready: at(4, "").Time, Phase: stats.PhaseServe,
		Version: "5.9.1", InstanceID: "uuid", WorkersReplaced: 1, Registrations: 2}
	if s.Run == nil || *s.Run != want {
		t.Fatalf("run %+v\nwant %+v", s.Run, want)
	}
	s.Run.ID = "changed" // the copy of the receiver
	s = observe(t, r, stats.RunEnded{Head: at(9, "r1"), Phase: stats.PhaseServe, Cause: stats.CauseSignal, PID: 8, Code: -1, Signal: "KILL",
		Uptime: 7 * time.Second, Err: errors.New("boom")},
		stats.RestartScheduled{Head: at(9, ""), Cause: stats.CauseSignal, Delay: time.Minute, Attempt: 1})
	want.Ended, want.Uptime, want.Cause = at(9, "").Time, 7*time.Second, stats.CauseSignal
	want.Code, want.Signal, want.Error = -1, "KILL", "boom"
	if s.Run != nil || len(s.History) != 1 || s.History[0] != want {
		t.Errorf("history %+v\nwant %+v", s.History, want)
	}
	if !s.NextStart.Equal(at(69, "").Time) {
		t.Errorf("next start %v", s.NextStart)
	}
	if s = observe(t, r, stats.RunStarting{Head: at(69, "r2")}); !s.NextStart.IsZero() {
		t.Errorf("next start %v after the start", s.NextStart)
	}
	if s.Totals.Runs != 2 || s.Totals.Restarts != 1 || s.Totals.Failures != 1 {
		t.Errorf("totals %+v", s.Totals)
	}
}

func TestRecorderEndsARunWhoseEndWasLost(t *testing.T) {
	s := observe(t, New("a", testHistory), stats.RunStarting{Head: at(1, "r1")}, stats.RunStarting{Head: at(2, "r2")},
		stats.RunEnded{Head: at(9, "r3"), Cause: stats.CauseRequested, Uptime: time.Second})
	if len(s.History) != 3 || s.Totals.Runs != 3 || s.Totals.Failures != 2 {
		t.Fatalf("history %+v, totals %+v", s.History, s.Totals)
	}
	for i, want := range []struct {
		id    string
		cause stats.Cause
		ended int
	}{{"r3", stats.CauseRequested, 9}, {"r2", stats.CauseUnknown, 9}, {"r1", stats.CauseUnknown, 2}} {
		if g := s.History[i]; g.ID != want.id || g.Cause != want.cause || !g.Ended.Equal(at(want.ended, "").Time) {
			t.Errorf("history[%d] = %+v, want %+v", i, g, want)
		}
	}
}

func TestRecorderHistoryIsBoundedNewestFirst(t *testing.T) {
	for _, limit := range []int{0, 1, 3, 7} {
		r := New("a", limit)
		for n := 1; n <= 7; n++ {
			id := fmt.Sprint(n)
			s := observe(t, r, stats.RunStarting{Head: at(n, id)}, stats.RunEnded{Head: at(n, id)})
			if len(s.History) != min(n, limit) {
				t.Fatalf("limit %d: %d runs after %d", limit, len(s.History), n)
			}
			for i, run := range s.History {
				if run.ID != fmt.Sprint(n-i) {
					t.Errorf("limit %d, %d runs: history[%d] is %s", limit, n, i, run.ID)
				}
			}
		}
	}
}

// counted is one of each event that changes a total, and of each that looks as if it did:
// configs and log lines are counted by Counters.
func counted(h stats.Head) []stats.Event {
	return []stats.Event{
		stats.RunStarting{Head: h}, stats.WorkerReplaced{Head: h}, stats.RegistrationRestored{Head: h}, stats.HealthFailed{Head: h},
		stats.WatchdogKilled{Head: h}, stats.QueryDenylisted{Head: h}, stats.DatabaseReplaced{Head: h}, stats.PanicCaught{Head: h},
		stats.TransportFailed{Head: h}, stats.ConfigRefused{Head: h}, stats.ConfigSetAside{Head: h},
		stats.RunEnded{Head: h, Cause: stats.CauseExit},
		stats.ConfigServed{Head: h}, stats.LogsDelivered{Head: h}, stats.LogsDropped{Head: h},
	}
}

func TestRecorderTotals(t *testing.T) {
	r := New("a", testHistory)
	for _, e := range counted(at(1, "r1")) {
		r.Observe(t.Context(), e)
		r.Observe(t.Context(), stats.LogsDropped{Head: stats.Head{Instance: "b"}})
	}
	c := r.Counters()
	c.Query(false)
	c.Query(true)
	c.Distributed(3)
	c.Distributed(-3)
	c.In(10)
	c.Out(2, 20)
	c.Dropped(4, 40)
	c.Config()
	want := stats.Totals{Runs: 1, Failures: 1, WorkersReplaced: 1, RegistrationsRestored: 1, HealthFailures: 1,
		WatchdogKills: 1, Denylisted: 1, Databases: 1, Panics: 1, TransportErrors: 1,
		ConfigsServed: 1, ConfigsRefused: 1, ConfigsSetAside: 1,
		Queries: 2, QueriesFailed: 1, Distributed: 3, LinesIn: 1, BytesIn: 10, LinesOut: 2, BytesOut: 20,
		LinesDropped: 4, BytesDropped: 40}
	if got := r.Snapshot().Totals; got != want {
		t.Errorf("totals\n%+v, want\n%+v", got, want)
	}
}

// Whatever the history was and becomes, it holds the newest runs, newest first.
func TestTrial33HistoryIsResized(t *testing.T) {
	for before := range 6 {
		for after := range 6 {
			h := history{limit: before}
			for i := range 4 {
				h.add(stats.Run{ID: fmt.Sprint(i)})
			}
			h.resize(after)
			for i := 4; i < 6; i++ {
				h.add(stats.Run{ID: fmt.Sprint(i)})
			}
			got := h.newestFirst()
			if want := min(after, 2+min(before, 4)); len(got) != want {
				t.Errorf("from %d to %d: %d runs, want %d", before, after, len(got), want)
			}
			for i, run := range got {
				if run.ID != fmt.Sprint(5-i) {
					t.Errorf("from %d to %d: run %d is %s", before, after, i, run.ID)
				}
			}
		}
	}
	r := New("a", testHistory)
	r.SetHistory(-1)
	if r.SetHistory(maxHistory + 1); r.history.limit != maxHistory {
		t.Errorf("the limit is %d", r.history.limit)
	}
}

// A run that ended stays ended: by the history, and without one by its id.
func TestRecorderKnowsTheRunsThatEnded(t *testing.T) {
	ended := func(s int, id string) []stats.Event {
		return []stats.Event{stats.RunStarting{Head: at(s, id)}, stats.RunEnded{Head: at(s+1, id), Cause: stats.CauseRequested}}
	}
	for name, s := range map[string]stats.Snapshot{
		"no history": observe(t, New("a", 0),
			append(ended(1, "r1"), stats.RunReady{Head: at(9, "r1")})...),
		"the run before the last": observe(t, New("a", testHistory),
			append(append(ended(1, "r1"), ended(3, "r2")...), stats.RunReady{Head: at(9, "r1")})...),
	} {
		if s.State != stats.StateStopped || s.Run != nil {
			t.Errorf("%s: state %s, run %v", name, s.State, s.Run)
		}
	}
}

// reentrant is an error whose text needs the Recorder.
type reentrant struct{ r *Recorder }

func (e reentrant) Error() string { return string(e.r.Snapshot().State) }

func TestRecorderHoldsNoLockWhileAnErrorIsPrinted(t *testing.T) {
	r := New("a", testHistory)
	s := observe(t, r, stats.RunStarting{Head: at(1, "r1")}, stats.RunReady{Head: at(2, "r1")},
		stats.HealthFailed{Head: at(3, "r1"), Err: reentrant{r}})
	if s.LastError != "ready" {
		t.Errorf("last error %q", s.LastError)
	}
}

func TestRecorderConcurrently(t *testing.T) {
	const n = 200
	r := New("a", testHistory)
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range n {
				id := fmt.Sprintf("%d-%d", w, i)
				r.Observe(t.Context(), stats.RunStarting{Head: at(i, id)})
				r.Observe(t.Context(), stats.PanicCaught{Head: at(i, id)})
				r.Counters().Query(true)
				if s := r.Snapshot(); s.Totals.QueriesFailed > s.Totals.Queries || len(s.History) > testHistory {
					t.Errorf("%+v", s)
				}
			}
		})
	}
	wg.Wait()
	s := r.Snapshot()
	if s.Totals.Runs != 4*n || s.Totals.Panics != 4*n || s.Totals.Queries != 4*n || len(s.History) != testHistory {
		t.Errorf("%+v", s.Totals)
	}
}

func countAll(c *Counters) {
	c.Query(true)
	c.Distributed(1)
	c.In(100)
	c.Out(1, 100)
	c.Dropped(1, 100)
	c.Config()
}

func TestAllocations(t *testing.T) {
	r := New("a", testHistory)
	for what, c := range map[string]struct {
		do  func()
		max float64
	}{
		"counters":          {func() { countAll(r.Counters()) }, 0},
		"snapshot when new": {func() { _ = r.Snapshot() }, 0},
	} {
		if got := testing.AllocsPerRun(100, c.do); got > c.max {
			t.Errorf("%s: %v allocations, want at most %v", what, got, c.max)
		}
	}
	observe(t, r, stats.RunStarting{Head: at(1, "r1")}, stats.RunEnded{Head: at(2, "r1")}, stats.RunStarting{Head: at(3, "r2")})
	var sink stats.Snapshot
	if got := testing.AllocsPerRun(100, func() { sink = r.Snapshot() }); got > 2 {
		t.Errorf("snapshot with run and history: %v allocations, want at most 2", got)
	}
	if len(sink.History) != 1 || sink.Run == nil {
		t.Errorf("%+v", sink)
	}
}

func BenchmarkCounters(b *testing.B) {
	var c Counters
	b.ReportAllocs()
	for b.Loop() {
		countAll(&c)
	}
}

func BenchmarkSnapshot(b *testing.B) {
	r := New("a", testHistory)
	b.ReportAllocs()
	for b.Loop() {
		_ = r.Snapshot()
	}
}
