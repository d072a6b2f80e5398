package stats

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

var epoch = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

// at is the head of an event of instance "a", s seconds in.
func at(s int, run string) Head {
	return Head{Time: epoch.Add(time.Duration(s) * time.Second), Instance: "a", Run: run}
}

func newRecorder(t *testing.T, opts ...RecorderOption) *Recorder {
	t.Helper()
	r, err := NewRecorder("a", opts...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func observe(t *testing.T, r *Recorder, events ...Event) Snapshot {
	t.Helper()
	for _, e := range events {
		r.Observe(t.Context(), e)
	}
	return r.Snapshot()
}

func TestNewRecorderNamesEveryMistake(t *testing.T) {
	for _, n := range []int{-1, maxHistory + 1} {
		r, err := NewRecorder("", WithHistory(n), nil)
		if r != nil || err == nil || !strings.Contains(err.Error(), "id is empty") ||
			!strings.Contains(err.Error(), fmt.Sprint(n)) {
			t.Errorf("WithHistory(%d): %v, %v", n, r, err)
		}
	}
}

// TestRecorderStates tells a story step by step and looks at the last state.
func TestRecorderStates(t *testing.T) {
	boom := errors.New("boom")
	start := []Event{InstanceAdded{at(0, "")}, RunStarting{Head: at(1, "r1")}}
	ready := append(start[:2:2], RunReady{Head: at(2, "r1")})
	failed := append(ready[:3:3], RunEnded{Head: at(3, "r1"), Cause: CauseExit, Err: boom})
	stopped := append(ready[:3:3], RunStopping{at(3, "r1")}, RunEnded{Head: at(4, "r1"), Cause: CauseRequested})
	removed := append(stopped[:5:5], InstanceRemoved{at(5, "")})
	for name, c := range map[string]struct {
		before []Event
		then   []Event
		want   State
		since  int // seconds
		err    string
		run    bool
	}{
		"nothing yet":             {nil, []Event{nil}, StateIdle, -1, "", false},
		"added":                   {nil, start[:1], StateIdle, 0, "", false},
		"starting":                {start, nil, StateStarting, 1, "", true},
		"ready":                   {ready, nil, StateReady, 2, "", true},
		"ready twice":             {ready, []Event{RunReady{Head: at(3, "r1")}}, StateReady, 2, "", true},
		"registration lost":       {ready, []Event{RegistrationLost{at(3, "r1"), nil}}, StateUnhealthy, 3, "registration lost", true},
		"registration mended":     {ready, []Event{RegistrationLost{at(3, "r1"), boom}, RegistrationMended{Head: at(4, "r1")}}, StateReady, 4, "boom", true},
		"health failed twice":     {ready, []Event{HealthFailed{at(3, "r1"), nil, 1}, HealthFailed{at(4, "r1"), boom, 2}}, StateUnhealthy, 3, "boom", true},
		"health recovered":        {ready, []Event{HealthFailed{at(3, "r1"), boom, 1}, HealthRecovered{at(4, "r1")}}, StateReady, 4, "boom", true},
		"worker lost":             {ready, []Event{WorkerLost{at(3, "r1")}}, StateUnhealthy, 3, "worker lost", true},
		"worker replaced":         {ready, []Event{WorkerLost{at(3, "r1")}, WorkerReplaced{Head: at(4, "r1")}}, StateReady, 4, "worker lost", true},
		"event without a run id":  {ready, []Event{WorkerLost{at(3, "")}}, StateUnhealthy, 3, "worker lost", true},
		"stopping":                {ready, []Event{RunStopping{at(3, "r1")}}, StateStopping, 3, "", true},
		"stopped":                 {stopped, nil, StateStopped, 4, "", false},
		"stop clears the error":   {ready, []Event{HealthFailed{at(3, "r1"), boom, 1}, RunEnded{Head: at(4, "r1"), Cause: CauseRequested}}, StateStopped, 4, "", false},
		"failed, nothing decided": {failed, nil, StateStopped, 3, "boom", false},
		"failed while starting":   {start, []Event{RunEnded{Head: at(2, "r1"), Cause: CauseStartTimeout}}, StateStopped, 2, "start timeout", false},
		"backoff":                 {failed, []Event{RestartScheduled{Head: at(4, ""), Delay: time.Second}}, StateBackoff, 4, "boom", false},
		"parked":                  {failed, []Event{InstanceParked{Head: at(4, "")}}, StateParked, 4, "unknown", false},
		"parked without a run":    {start[:1], []Event{InstanceParked{Head: at(1, ""), Cause: CauseBinaryMissing}}, StateParked, 1, "binary missing", false},
		"resumed":                 {failed, []Event{InstanceParked{Head: at(4, "")}, InstanceResumed{Head: at(5, "")}}, StateIdle, 5, "unknown", false},
		"updated when parked":     {failed, []Event{InstanceParked{Head: at(4, "")}, InstanceUpdated{at(5, "")}}, StateIdle, 5, "unknown", false},
		"updated while it runs":   {ready, []Event{InstanceUpdated{at(5, "")}}, StateReady, 2, "", true},
		"removed":                 {removed, nil, StateStopped, 4, "", false},
		"added again":             {removed, []Event{InstanceAdded{at(6, "")}}, StateIdle, 6, "", false},

		"health failed while starting":     {start, []Event{HealthFailed{at(2, "r1"), boom, 1}}, StateStarting, 1, "", true},
		"mended while starting":            {start, []Event{RegistrationMended{Head: at(2, "r1")}}, StateStarting, 1, "", true},
		"health failed while stopping":     {ready, []Event{RunStopping{at(3, "r1")}, HealthFailed{at(4, "r1"), boom, 1}}, StateStopping, 3, "", true},
		"worker replaced while stopping":   {ready, []Event{RunStopping{at(3, "r1")}, WorkerReplaced{Head: at(4, "r1")}}, StateStopping, 3, "", true},
		"ready while stopping":             {start, []Event{RunStopping{at(2, "r1")}, RunReady{Head: at(3, "r1")}}, StateStopping, 2, "", true},
		"health failed after the end":      {stopped, []Event{HealthFailed{at(5, "r1"), boom, 1}}, StateStopped, 4, "", false},
		"recovered after the end":          {failed, []Event{HealthRecovered{at(5, "r1")}, HealthRecovered{at(5, "")}}, StateStopped, 3, "boom", false},
		"ready after the end":              {failed, []Event{RunReady{Head: at(5, "r1")}}, StateStopped, 3, "boom", false},
		"starting after the end":           {failed, []Event{RunStarting{Head: at(5, "r1")}}, StateStopped, 3, "boom", false},
		"stopping after the end":           {failed, []Event{RunStopping{at(5, "r1")}}, StateStopped, 3, "boom", false},
		"ended twice":                      {failed, []Event{RunEnded{Head: at(5, "r1"), Cause: CauseRequested}}, StateStopped, 3, "boom", false},
		"end after the parking":            {ready, []Event{InstanceParked{Head: at(3, "r1"), Err: boom}, RunEnded{Head: at(4, "r1"), Cause: CauseExit}}, StateParked, 3, "exit", false},
		"end after the scheduling":         {ready, []Event{RestartScheduled{Head: at(3, "r1")}, RunEnded{Head: at(4, "r1"), Cause: CauseExit}}, StateBackoff, 3, "exit", false},
		"ready while parked":               {start, []Event{InstanceParked{Head: at(3, "r1"), Err: boom}, RunReady{Head: at(4, "r1")}}, StateParked, 3, "boom", true},
		"scheduled after the removal":      {removed, []Event{RestartScheduled{Head: at(6, "")}}, StateStopped, 4, "", false},
		"parked after the removal":         {removed, []Event{InstanceParked{Head: at(6, ""), Err: boom}}, StateStopped, 4, "", false},
		"resumed after the removal":        {removed, []Event{InstanceResumed{Head: at(6, "")}}, StateStopped, 4, "", false},
		"an older run":                     {failed, []Event{RunStarting{Head: at(5, "r2")}, RunReady{Head: at(6, "r1")}, HealthFailed{at(6, "r1"), boom, 1}}, StateStarting, 5, "boom", true},
		"another instance":                 {ready, []Event{RunStopping{Head{Instance: "b", Run: "r1"}}}, StateReady, 2, "", true},
		"ready, its start was lost":        {failed, []Event{RunReady{Head: at(9, "r2"), Took: time.Second}}, StateReady, 9, "boom", true},
		"process, its start was lost":      {failed, []Event{ProcessStarted{at(9, "r2"), 7}}, StateStarting, 9, "boom", true},
		"removed, the end was lost":        {ready, []Event{InstanceRemoved{at(9, "")}}, StateStopped, 9, "", false},
		"ready after removal without end":  {ready, []Event{InstanceRemoved{at(9, "")}, RunReady{Head: at(10, "r1")}}, StateStopped, 9, "", false},
		"registration while it is stopped": {stopped, []Event{ExtensionRegistered{Head: at(9, "r2")}}, StateStopped, 4, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			s := observe(t, newRecorder(t), append(c.before[:len(c.before):len(c.before)], c.then...)...)
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
	r := newRecorder(t)
	s := observe(t, r,
		RunStarting{at(1, "r1"), "/bin/osqueryd", "5.9"},
		ProcessStarted{at(2, "r1"), 7},
		ExtensionRegistered{Head: at(3, "r1")},
		RunReady{at(4, "r1"), 8, 3 * time.Second, "5.9.1", "uuid"},
		WorkerLost{at(5, "r1")},
		ExtensionRegistered{Head: at(6, "r1"), Again: true},
		WorkerReplaced{Head: at(6, "r1")},
	)
	want := Run{ID: "r1", PID: 8, Started: at(1, "").Time, Ready: at(4, "").Time, Phase: PhaseServe,
		Version: "5.9.1", InstanceID: "uuid", WorkersReplaced: 1, Registrations: 2}
	if s.Run == nil || *s.Run != want {
		t.Fatalf("run %+v\nwant %+v", s.Run, want)
	}
	s.Run.ID = "changed" // the copy of the receiver
	s = observe(t, r, RunEnded{at(9, "r1"), PhaseServe, CauseSignal, 8, -1, "KILL", 7 * time.Second, errors.New("boom"), nil, ""},
		RestartScheduled{at(9, ""), CauseSignal, time.Minute, 1})
	want.Ended, want.Uptime, want.Cause = at(9, "").Time, 7*time.Second, CauseSignal
	want.Code, want.Signal, want.Error = -1, "KILL", "boom"
	if s.Run != nil || len(s.History) != 1 || s.History[0] != want {
		t.Errorf("history %+v\nwant %+v", s.History, want)
	}
	if !s.NextStart.Equal(at(69, "").Time) {
		t.Errorf("next start %v", s.NextStart)
	}
	if s = observe(t, r, RunStarting{Head: at(69, "r2")}); !s.NextStart.IsZero() {
		t.Errorf("next start %v after the start", s.NextStart)
	}
	if s.Totals.Runs != 2 || s.Totals.Restarts != 1 || s.Totals.Failures != 1 {
		t.Errorf("totals %+v", s.Totals)
	}
}

func TestRecorderEndsARunWhoseEndWasLost(t *testing.T) {
	s := observe(t, newRecorder(t), RunStarting{Head: at(1, "r1")}, RunStarting{Head: at(2, "r2")},
		RunEnded{Head: at(9, "r3"), Cause: CauseRequested, Uptime: time.Second})
	if len(s.History) != 3 || s.Totals.Runs != 3 || s.Totals.Failures != 2 {
		t.Fatalf("history %+v, totals %+v", s.History, s.Totals)
	}
	for i, want := range []struct {
		id    string
		cause Cause
		ended int
	}{{"r3", CauseRequested, 9}, {"r2", CauseUnknown, 9}, {"r1", CauseUnknown, 2}} {
		if g := s.History[i]; g.ID != want.id || g.Cause != want.cause || !g.Ended.Equal(at(want.ended, "").Time) {
			t.Errorf("history[%d] = %+v, want %+v", i, g, want)
		}
	}
}

func TestRecorderHistoryIsBoundedNewestFirst(t *testing.T) {
	for _, limit := range []int{0, 1, 3, 7} {
		r := newRecorder(t, WithHistory(limit))
		for n := 1; n <= 7; n++ {
			id := fmt.Sprint(n)
			s := observe(t, r, RunStarting{Head: at(n, id)}, RunEnded{Head: at(n, id)})
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

func TestRecorderTotals(t *testing.T) {
	r := newRecorder(t)
	for _, e := range allEvents(at(1, "r1")) {
		r.Observe(t.Context(), e)
		r.Observe(t.Context(), LogsDropped{Head: Head{Instance: "b"}})
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
	want := Totals{Runs: 1, Failures: 1, WorkersReplaced: 1, Mended: 1, HealthFailures: 1,
		WatchdogKills: 1, Denylisted: 1, Databases: 1, Panics: 1, TransportErrors: 1, ConfigsServed: 1, ConfigsRefused: 1, ConfigsSetAside: 1,
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
				h.add(Run{ID: fmt.Sprint(i)})
			}
			h.resize(after)
			for i := 4; i < 6; i++ {
				h.add(Run{ID: fmt.Sprint(i)})
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
	r := newRecorder(t)
	r.SetHistory(-1)
	if r.SetHistory(maxHistory + 1); r.history.limit != maxHistory {
		t.Errorf("the limit is %d", r.history.limit)
	}
}
