package stats

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestLogToFields pins the names of all attributes, which hosts search by.
func TestLogToFields(t *testing.T) {
	want := map[string]string{
		"instance parked": "cause error failures for window", "instance resumed": "reason", "restart scheduled": "attempt cause delay",
		"run starting": "binary version", "process started": "pid",
		"extension registered": "again plugins uuid", "run ready": "elapsed instance_id pid version",
		"worker replaced": "elapsed reason", "watchdog killed": "limit message resource used",
		"registration lost": "error", "registration restored": "elapsed", "table parked": "error table",
		"health failed": "error in_a_row",
		"run ended":     "cause code error hint phase pid signal stderr uptime",
		"config served": "bytes sources stale", "config refused": "error source",
		"option stripped": "option reason source", "config part ignored": "path reason source",
		"config set aside": "deaths hash sources", "discovery failed": "error query",
		"logs delivered": "batch bytes lines queue", "logs dropped": "bytes lines queue reason",
		"queue damaged": "bytes cursor_lost missing queue", "queue left": "dir error queue",
		"transport failed": "call error retry", "enrolled": "again",
		"query denylisted": "distributed query", "database replaced": "backup", "flag ineffective": "flag got want",
		"rate alarm": "count what window", "leftover cleaned": "elapsed pids",
		"suspended": "for", "panic caught": "stack value where",
	}
	for _, e := range allEvents(at(1, "r1")) {
		var out bytes.Buffer
		LogTo(slog.New(slog.NewJSONHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))).Observe(t.Context(), e)
		var rec map[string]any
		if err := json.Unmarshal(out.Bytes(), &rec); err != nil {
			t.Fatalf("%s: not one record: %v", e.Kind(), err)
		}
		if rec["msg"] != e.Kind() || rec["instance"] != "a" || rec["run"] != "r1" || rec["time"] != "2030-01-01T00:00:01Z" {
			t.Errorf("%s: %v", e.Kind(), rec)
		}
		if s, bad := rec["error"]; bad && s != "boom" {
			t.Errorf("%s: error %v", e.Kind(), s)
		}
		var keys []string
		for k := range rec {
			if !slices.Contains([]string{"time", "level", "msg", "instance", "run"}, k) {
				keys = append(keys, k)
			}
		}
		slices.Sort(keys)
		if got := strings.Join(keys, " "); got != want[e.Kind()] {
			t.Errorf("%s: fields %q, want %q", e.Kind(), got, want[e.Kind()])
		}
	}
}

func TestLogToLevels(t *testing.T) {
	got := map[slog.Level][]string{}
	for _, e := range allEvents(Head{}) {
		got[levelOf(e)] = append(got[levelOf(e)], e.Kind())
	}
	want := map[slog.Level][]string{
		slog.LevelDebug: {"config served", "config pushed", "logs delivered"},
		slog.LevelError: {"instance parked", "run ended", "panic caught"},
		slog.LevelWarn: {"restart scheduled", "worker lost", "watchdog killed", "registration lost",
			"table parked", "health failed", "config refused", "option stripped", "config part ignored", "config set aside",
			"logs dropped", "queue damaged", "queue left", "transport failed",
			"query denylisted", "database replaced", "discovery failed", "flag ineffective", "rate alarm"},
	}
	for level, kinds := range want {
		if !reflect.DeepEqual(got[level], kinds) {
			t.Errorf("%v: %q, want %q", level, got[level], kinds)
		}
	}
	if l := levelOf(RunEnded{Cause: CauseRequested}); l != slog.LevelInfo {
		t.Errorf("a requested end is %v", l)
	}
	if l := levelOf(ConfigServed{Stale: true}); l != slog.LevelWarn {
		t.Errorf("a stale config is %v", l)
	}
}

func TestLogToTextsOfZeroAndDuration(t *testing.T) {
	for want, e := range map[string]Event{
		`cause=exit delay=1.23s attempt=1`:                            RestartScheduled{Cause: CauseExit, Delay: 1234567890, Attempt: 1},
		`cause=exit delay=none attempt=1`:                             RestartScheduled{Cause: CauseExit, Attempt: 1},
		`cause="binary missing" for="until it is resumed" failures=1`: InstanceParked{Cause: CauseBinaryMissing, Failures: 1},
		`cause=exit for=15m0s failures=5 window=1h0m0s`:               InstanceParked{Cause: CauseExit, Failures: 5, For: 15*time.Minute + 1, Window: time.Hour},
		`call=logs error=boom retry="when osqueryd asks again"`:       TransportFailed{Call: "logs", Err: errors.New("boom")},
		`phase=serve cause=exit pid=7 code=0 uptime=523.12ms`:         RunEnded{Phase: PhaseServe, Cause: CauseExit, PID: 7, Uptime: 523123456},
		`phase=serve cause=signal pid=7 signal=KILL uptime=1h0m0s`:    RunEnded{Phase: PhaseServe, Cause: CauseSignal, PID: 7, Code: -1, Signal: "KILL", Uptime: time.Hour},
		`phase=spawn cause="binary missing" error=boom`:               RunEnded{Phase: PhaseSpawn, Cause: CauseBinaryMissing, Err: errors.New("boom")},
		`phase=serve cause=exit pid=7 code=0 error="e; do x"`: RunEnded{Phase: PhaseServe, Cause: CauseExit, PID: 7,
			Err: errors.New("e; do x"), Hint: "do x"},
		`bytes=3 sources=1 stale=false`: ConfigServed{Bytes: 3, Sources: 1},
		`resource=memory message=m`:     WatchdogKilled{Resource: "memory", Message: "m"},
	} {
		var out bytes.Buffer
		LogTo(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))).Observe(t.Context(), e)
		if _, got, _ := strings.Cut(out.String(), ` instance="" `); got != want+"\n" {
			t.Errorf("%s:\ngot  %swant %s", e.Kind(), got, want)
		}
	}
	kinds := map[string]bool{}
	for _, e := range allEvents(Head{}) {
		for key := range fieldsOf(e) {
			kinds[e.Kind()+" "+key] = true
		}
	}
	for k := range zeros {
		if !kinds[k] {
			t.Errorf("there is no field %q", k)
		}
	}
}

func TestLogToAllocatesNothingBelowTheLevel(t *testing.T) {
	o := LogTo(slog.New(slog.NewTextHandler(&bytes.Buffer{}, nil)))
	var e Event = LogsDelivered{Head: at(1, "r1"), Batch: "b"}
	if got := testing.AllocsPerRun(100, func() { o.Observe(context.Background(), e) }); got != 0 {
		t.Errorf("%v allocations", got)
	}
}

func TestLogToLeavesOutWhatSaysNothing(t *testing.T) {
	var out bytes.Buffer
	o := LogTo(slog.New(slog.NewTextHandler(&out, nil)))
	o.Observe(t.Context(), nil)
	o.Observe(t.Context(), RunEnded{Head: Head{Instance: "a"}, Cause: CauseRequested})
	want := "level=INFO msg=\"run ended\" instance=a cause=requested\n"
	if out.String() != want {
		t.Errorf("got  %swant %s", out.String(), want)
	}
	LogTo(nil).Observe(t.Context(), RunEnded{})
}
