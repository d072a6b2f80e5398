package instance_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/internal/testhelp"
	"github.com/osqvisor/osqvisor/stats"
)

// The data path from end to end: what a server says reaches osqueryd, and what
// osqueryd answers reaches the server. On the fake, and on a real osqueryd.

// packServer is a server in memory that resolves packs by their name.
type packServer struct{ *extension.Memory }

func (packServer) Pack(_ context.Context, _ extension.Node, name, value string) (string, error) {
	if name != "inventory" || value != "v2" {
		return "", fmt.Errorf("no pack %q of %q", name, value)
	}
	return `{"queries":{"machines":{"query":"select 1 as one","interval":3600}}}`, nil
}

// scheduled gives the names of osqueryd's scheduled queries, sorted.
func scheduled(t *testing.T, r *running) []string {
	t.Helper()
	rows, err := r.Query(patient(t), "select name from osquery_schedule")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, row := range rows.Maps() {
		names = append(names, row["name"])
	}
	slices.Sort(names)
	return names
}

func wantScheduled(t *testing.T, r *running, want ...string) {
	t.Helper()
	if got := scheduled(t, r); !slices.Equal(got, want) {
		t.Errorf("osqueryd's schedule has %q, want %q", got, want)
	}
}

// waitScheduled is for a start: osqueryd asks for its config after it is ready.
func waitScheduled(t *testing.T, r *running, want ...string) {
	t.Helper()
	ctx := patient(t)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !slices.Equal(scheduled(t, r), want) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("osqueryd's schedule has %q, want %q", scheduled(t, r), want)
		}
	}
}

func hourly(name string) string {
	return fmt.Sprintf(`{"schedule":{%q:{"query":"select 1 as one","interval":3600}}}`, name)
}

func push(t *testing.T, r *running, server *extension.Memory, config map[string]string) {
	t.Helper()
	server.SetConfig("vendor", config)
	if err := r.PushConfig(patient(t)); err != nil {
		t.Fatal(err)
	}
}

func TestEndToEndConfig(t *testing.T) {
	each(t, func(t *testing.T, binary string) {
		testhelp.CheckLeaks(t)
		server := extension.NewMemory()
		server.SetConfig("vendor", map[string]string{"main": `{
			# a comment, which osqueryd's parser takes and JSON does not
			"options": {"disable_distributed": true, "disable_watchdog": true, "schedule_splay_percent": 11},
			"schedule": {"first": {"query": "select 1 as one", "interval": 3600}},
			"packs": {"inventory": "v2"}
		}`})
		r := start(t, binary, instance.WithTransport(packServer{server}))
		waitScheduled(t, r, "first", "pack_inventory_machines")
		wantOptionsStripped(t, r, "disable_distributed", "disable_watchdog")
		wantFlags(t, r, map[string]string{"disable_watchdog": "false", "schedule_splay_percent": "11"})

		push(t, r, server, map[string]string{"main": hourly("second"), "more": hourly("third")})
		wantScheduled(t, r, "second", "third")
		push(t, r, server, map[string]string{"main": hourly("second")}) // a source is gone
		wantScheduled(t, r, "second")

		// What osqueryd would take for an empty schedule does not reach it.
		server.SetConfig("vendor", map[string]string{"main": `{"schedule":{"fourth":`})
		if err := r.PushConfig(patient(t)); err == nil {
			t.Error("a broken config was pushed")
		}
		if refused := next[stats.ConfigRefused](t, r.events); refused.Source != "main" {
			t.Errorf("refused: %+v", refused)
		}
		wantScheduled(t, r, "second")
	})
}

func wantOptionsStripped(t *testing.T, r *running, want ...string) {
	t.Helper()
	var got []string
	for range want {
		got = append(got, next[stats.OptionStripped](t, r.events).Option)
	}
	if slices.Sort(got); !slices.Equal(got, want) {
		t.Errorf("stripped %q, want %q", got, want)
	}
}

func wantFlags(t *testing.T, r *running, want map[string]string) {
	t.Helper()
	for flag, want := range want {
		rows, err := r.Query(patient(t), fmt.Sprintf("select value from osquery_flags where name = '%s'", flag))
		if got := rows.Maps(); err != nil || len(got) != 1 || got[0]["value"] != want {
			t.Errorf("osqueryd's flag %s is %v, %v; want %s", flag, got, err, want)
		}
	}
}

// TestEndToEndResults: a differential line, snapshots and status lines arrive, each
// in its own queue, results and snapshots as the bytes that osqueryd wrote.
func TestEndToEndResults(t *testing.T) {
	each(t, func(t *testing.T, binary string) {
		testhelp.CheckLeaks(t)
		server := extension.NewMemory()
		server.SetConfig("vendor", map[string]string{"main": `{"schedule":{
			"once": {"query": "select '<&> ž 🐎' as v", "interval": 1},
			"always": {"query": "select '<&> ž 🐎' as v", "interval": 1, "snapshot": true}
		}}`})
		r := start(t, binary, instance.WithTransport(server),
			instance.WithLogs(extension.Logs{BatchLines: 2, BatchAge: 100 * time.Millisecond}))
		snapshots := waitLogs(t, server, extension.QueueSnapshots, 3)
		for _, line := range snapshots {
			wantLine(t, line, `"name":"always"`, `"action":"snapshot"`, `"snapshot":[{"v":"<&> ž 🐎"}]`)
		}
		// Its rows never change, so it has said all it has to say.
		results := waitLogs(t, server, extension.QueueResults, 1)
		columns := `"columns":{"v":"<&> ž 🐎"}`
		if olderThan(t, r, 23) && strings.Contains(results[0], `\\x`) {
			columns = `"columns":{"v":"<&> \\xC5\\xBE \\xF0\\x9F\\x90\\x8E"}` // osqueryd's own way
		}
		wantLine(t, results[0], `"name":"once"`, `"action":"added"`, columns)
		if len(results) != 1 {
			t.Errorf("%d results, want one: %q", len(results), results)
		}
		wantLine(t, waitLogs(t, server, extension.QueueStatus, 1)[0], `{"hostIdentifier":"`, `"severity":`, `"version":"`)
		r.end(t)
		if n := server.Repeats("vendor"); n != 0 {
			t.Errorf("%d batches came twice", n)
		}
	})
}

// olderThan reports whether osqueryd is older than 5.minor.
func olderThan(t *testing.T, r *running, minor int) bool {
	t.Helper()
	var major, have int
	if n, err := fmt.Sscanf(r.Binary().Version, "%d.%d", &major, &have); n < 2 {
		t.Fatalf("version %q: %v", r.Binary().Version, err)
	}
	return major < 5 || major == 5 && have < minor
}

func waitLogs(t *testing.T, server *extension.Memory, queue extension.Queue, count int) []string {
	t.Helper()
	lines, err := server.WaitLogs(patient(t), "vendor", queue, count)
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

// wantLine looks for bytes that decoding and encoding again would change.
func wantLine(t *testing.T, line string, parts ...string) {
	t.Helper()
	if !json.Valid([]byte(line)) {
		t.Errorf("no JSON: %q", line)
	}
	for _, part := range parts {
		if !strings.Contains(line, part) {
			t.Errorf("the line has no %s: %s", part, line)
		}
	}
}

func ask(t *testing.T, wait func(context.Context) (extension.Result, error)) extension.Result {
	t.Helper()
	result, err := wait(patient(t))
	if err != nil {
		t.Fatal(err)
	}
	return result
}

// TestEndToEndDistributed: queries are answered with osqueryd's own rows, statuses,
// messages and stats, while node keys are renewed and discovery queries fail.
func TestEndToEndDistributed(t *testing.T) {
	each(t, func(t *testing.T, binary string) {
		testhelp.CheckLeaks(t)
		server := extension.NewMemory()
		r := start(t, binary, instance.WithTransport(server), instance.WithDistributed(extension.Distributed{Interval: time.Second}))

		// All in one set: neither the one that fails nor its discovery spoils the others.
		good := server.Ask("vendor", "select '<&> ž' as v")
		bad := server.Ask("vendor", "select * from nosuch")
		undiscovered := server.AskSet("vendor", extension.QuerySet{
			Queries:   map[string]string{"": "select 1 as one"},
			Discovery: map[string]string{"": "select * from nosuch"},
		})
		result := ask(t, good)
		if string(result.Rows) != `[{"v":"<&> ž"}]` || result.Status != 0 || result.Message != "" ||
			(result.Stats == nil) != olderThan(t, r, 8) {
			t.Errorf("rows %s, status %d, message %q, stats %v", result.Rows, result.Status, result.Message, result.Stats)
		}
		if result = ask(t, bad); result.Status != 1 || !strings.Contains(result.Message, "no such table: nosuch") {
			t.Errorf("status %d, message %q", result.Status, result.Message)
		}
		if result = ask(t, undiscovered); result.Status != 1 || !strings.Contains(result.Message, "discovery query failed") {
			t.Errorf("status %d, message %q", result.Status, result.Message)
		}
		if failed := next[stats.DiscoveryFailed](t, r.events); !strings.Contains(failed.Err.Error(), "no such table: nosuch") {
			t.Errorf("discovery: %v", failed.Err)
		}

		enrolled := server.Enrolments()
		server.Invalidate("vendor")
		if result = ask(t, server.Ask("vendor", "select 'renewed' as v")); string(result.Rows) != `[{"v":"renewed"}]` {
			t.Errorf("after the node key was invalidated: %s", result.Rows)
		}
		if got := server.Enrolments() - enrolled; got != 1 {
			t.Errorf("%d enrolments, want one", got)
		}
	})
}

// TestEndToEndLastGoodConfig: an osqueryd whose server is not there at its start
// runs with what the last one was given, and takes the server's word when it is back.
func TestEndToEndLastGoodConfig(t *testing.T) {
	each(t, func(t *testing.T, binary string) {
		testhelp.CheckLeaks(t)
		server, dir := extension.NewMemory(), root(t)
		server.SetConfig("vendor", map[string]string{"main": hourly("kept")})
		opts := []instance.Option{
			instance.WithTransport(server), instance.WithRoot(dir), instance.WithConfig(extension.Config{Probation: -1}),
		}
		first := start(t, binary, opts...)
		waitScheduled(t, first, "kept")
		first.end(t)

		server.SetConfig("vendor", map[string]string{"main": hourly("new")})
		server.Fail(func(string, extension.Node) error { return errors.New("the server is away") })
		second := start(t, binary, opts...)
		waitScheduled(t, second, "kept")
		if served := next[stats.ConfigServed](t, second.events); !served.Stale {
			t.Errorf("not announced as stale: %+v", served)
		}
		server.Fail(nil)
		if err := second.PushConfig(patient(t)); err != nil {
			t.Fatal(err)
		}
		wantScheduled(t, second, "new")
	})
}
