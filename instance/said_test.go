package instance_test

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"

	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/instance/osquerydtest"
	"github.com/osqvisor/osqvisor/stats"
)

// What osqueryd prints becomes a record with its own level, file and line, and says whose
// and of which run it is.
func TestOsquerydsWordsAreLogged(t *testing.T) {
	t.Parallel()
	script := fast
	for _, do := range []osquerydtest.Action{
		{Do: osquerydtest.Say, Text: "E0102 03:04:05.000000  42 sky.cpp:17] the sky fell"},
		{Do: osquerydtest.Say, Text: "no glog"},
		{Do: osquerydtest.Exit, Code: 1},
	} {
		script = script.WithRule(osquerydtest.Rule{Phase: osquerydtest.PhaseStart, Role: osquerydtest.RoleWatcher, Action: do})
	}
	var out bytes.Buffer // a handler writes one record at a time, and Run joins the reader
	in := newInstance(t, osquerydtest.Start(t, osquerydtest.WithScript(script)).Path(),
		instance.WithLogger(slog.New(slog.NewJSONHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))))
	e := wantExit(t, in.Run(patient(t)), stats.PhaseConnect, stats.CauseExit)
	records := map[string]map[string]any{}
	for line := range strings.Lines(out.String()) {
		record := map[string]any{}
		if err := json.Unmarshal([]byte(line), &record); err != nil {
			t.Fatal(err)
		}
		records[record["msg"].(string)] = record
	}
	for msg, want := range map[string]map[string]any{
		"the sky fell": {"level": "ERROR", "file": "sky.cpp", "line": 17.0, "source": "osqueryd", "instance": "vendor", "run": e.Run},
		"no glog":      {"level": "WARN", "file": nil, "line": nil, "source": "osqueryd", "instance": "vendor", "run": e.Run},
	} {
		for key, value := range want {
			if got := records[msg][key]; got != value {
				t.Errorf("%q: %s is %v, want %v", msg, key, got, value)
			}
		}
	}
}
