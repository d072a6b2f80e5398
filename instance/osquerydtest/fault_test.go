package osquerydtest_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	osquery "github.com/osquery/osquery-go"
	gen "github.com/osquery/osquery-go/gen/osquery"

	"github.com/osqvisor/osqvisor/instance/osquerydtest"
)

func ruled(p osquerydtest.Phase, a osquerydtest.Action) osquerydtest.Script {
	return fast.WithRule(osquerydtest.Rule{Phase: p, Action: a})
}

func TestSpoiltAnswers(t *testing.T) {
	ctx := testContext(t)
	const sql = "SELECT * FROM fake_rows WHERE n = 3"
	for _, kind := range []osquerydtest.Kind{osquerydtest.Reset, osquerydtest.Rubbish, osquerydtest.Truncate, osquerydtest.Refuse} {
		t.Run(string(kind), func(t *testing.T) {
			fake := osquerydtest.Start(t, osquerydtest.WithScript(fast.WithRule(osquerydtest.Rule{
				Phase: osquerydtest.PhaseQuery, Match: "fake_rows", Times: 1,
				Action: osquerydtest.Action{Do: kind, Text: "refused by the script"},
			})))
			dir := root(t)
			writeConf(t, dir, "{}")
			r := start(t, fake, dir)
			r.ready(ctx)
			if got, err := r.client().QueryRows(sql); err == nil {
				t.Errorf("a spoilt answer gave %d rows and no error", len(got))
			}
			got, err := r.client().QueryRows(sql)
			if err != nil || len(got) != 3 || len(got[0]) != 5 {
				t.Errorf("the next answer: %v, error %v; want 3 rows of 5", got, err)
			}
		})
	}
}

func TestHugeAnswer(t *testing.T) {
	ctx := testContext(t)
	const size = 8 << 20
	huge := osquerydtest.Action{Do: osquerydtest.Huge, Bytes: size}
	fake := osquerydtest.Start(t, osquerydtest.WithScript(ruled(osquerydtest.PhaseQuery, huge)))
	dir := root(t)
	writeConf(t, dir, "{}")
	r := start(t, fake, dir)
	r.ready(ctx)
	got, err := r.client().QueryRows("SELECT 1")
	if err != nil || len(got[0]["data"]) != size {
		t.Errorf("error %v; want one cell of %d bytes", err, size)
	}
}

func TestExitAtEachPhase(t *testing.T) {
	ctx := testContext(t)
	for _, ph := range []osquerydtest.Phase{
		osquerydtest.PhaseStart, osquerydtest.PhaseBeforePidfile, osquerydtest.PhaseAfterPidfile, osquerydtest.PhaseBeforeDatabase,
		osquerydtest.PhaseAfterDatabase, osquerydtest.PhaseBeforeSocket, osquerydtest.PhaseAfterSocket, osquerydtest.PhaseConfig,
		osquerydtest.PhaseLogger, osquerydtest.PhaseReady,
	} {
		fake := osquerydtest.Start(t, osquerydtest.WithScript(ruled(ph, osquerydtest.Action{Do: osquerydtest.Exit, Code: 42})))
		dir := root(t)
		writeConf(t, dir, "{}")
		if code := start(t, fake, dir, "--disable_watchdog").code(ctx); code != 42 {
			t.Errorf("%s: exit code %d, want 42", ph, code)
		}
	}
}

func TestRuleLimitedToRuns(t *testing.T) {
	ctx := testContext(t)
	script := fast.WithRule(osquerydtest.Rule{
		Phase: osquerydtest.PhaseReady, Runs: 2, Instance: "oq", Action: osquerydtest.Action{Do: osquerydtest.Exit, Code: 78},
	}).WithRule(osquerydtest.Rule{
		Phase: osquerydtest.PhaseStart, Instance: "elsewhere", Action: osquerydtest.Action{Do: osquerydtest.Exit, Code: 1},
	})
	fake := osquerydtest.Start(t, osquerydtest.WithScript(script))
	dir := root(t)
	writeConf(t, dir, "{}")
	for range 2 {
		if code := start(t, fake, dir, "--disable_watchdog").code(ctx); code != 78 {
			t.Errorf("exit code %d, want 78", code)
		}
	}
	if w := start(t, fake, dir, "--disable_watchdog").ready(ctx); w.Run() != 3 {
		t.Errorf("run %d, want 3", w.Run())
	}
}

func TestHangAndUnhang(t *testing.T) {
	ctx := testContext(t)
	fake := osquerydtest.Start(t, osquerydtest.WithScript(fast))
	dir := root(t)
	writeConf(t, dir, "{}")
	r := start(t, fake, dir)
	w := r.ready(ctx)
	do := func(k osquerydtest.Kind) {
		if err := w.Do(ctx, osquerydtest.Action{Do: k}); err != nil {
			t.Fatal(err)
		}
	}
	impatient, err := osquery.NewClient(filepath.Join(dir, "em"), 300*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	defer impatient.Close()
	do(osquerydtest.HangCalls)
	if _, err := impatient.Ping(); err != nil {
		t.Errorf("hang-calls: ping %v", err)
	}
	if _, err := impatient.Query("SELECT 1"); err == nil {
		t.Error("hang-calls: a query is answered")
	}
	do(osquerydtest.Hang)
	another, err := osquery.NewClient(filepath.Join(dir, "em"), 300*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	defer another.Close()
	if _, err := another.Ping(); err == nil {
		t.Error("hang: a ping is answered")
	}
	do(osquerydtest.Unhang)
	if _, err := r.client().Query("SELECT 1"); err != nil {
		t.Errorf("after unhang: %v", err)
	}
}

func TestIgnoreTermIsKilledByTheWatcher(t *testing.T) {
	ctx := testContext(t)
	script := fast.WithRule(osquerydtest.Rule{
		Phase: osquerydtest.PhaseReady, Role: osquerydtest.RoleWorker, Action: osquerydtest.Action{Do: osquerydtest.IgnoreTerm},
	})
	script.DeadlineScale = 0.01
	fake := osquerydtest.Start(t, osquerydtest.WithScript(script))
	dir := root(t)
	writeConf(t, dir, "{}")
	r := start(t, fake, dir)
	r.ready(ctx)
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	r.code(ctx)
	r.wantStderr("could not be stopped. Sending kill signal.")
}

func TestRegistrationRefusals(t *testing.T) {
	ctx := testContext(t)
	fake := osquerydtest.Start(t, osquerydtest.WithScript(fast.WithRule(osquerydtest.Rule{
		Phase: osquerydtest.PhaseRegister, Match: "first", Action: osquerydtest.Action{Do: osquerydtest.ZeroUUID},
	})))
	dir := root(t)
	writeConf(t, dir, "{}")
	r := start(t, fake, dir)
	w := r.ready(ctx)
	c := r.client()
	column := gen.ExtensionPluginResponse{{"id": "column", "name": "a", "type": "TEXT", "op": "0"}}
	register := func(name, sdk, registry, item string, routes gen.ExtensionPluginResponse) string {
		t.Helper()
		info := &gen.InternalExtensionInfo{Name: name, SdkVersion: sdk}
		st, err := c.RegisterExtension(info, gen.ExtensionRegistry{registry: {item: routes}})
		if err != nil {
			t.Fatal(err)
		}
		if st.Code == 0 && st.UUID == 0 {
			return "zero"
		}
		return st.Message
	}
	tests := []struct{ name, sdk, registry, item, want string }{
		{"first", "", "table", "mine", "zero"},
		{"first", "", "table", "other", "Duplicate extension registered"},
		{"old", "1.7.6", "table", "other", "Incompatible extension SDK version"},
		{"b", "5.0.0", "table", "mine", "Failed adding registry: Registry item mine conflicts with another item of the same name."},
		{"c", "5.0.0", "table", "osquery_info", "Failed adding registry: Registry item osquery_info conflicts with another item of the same name."},
		{"d", "5.0.0", "nonsense", "x", "Failed adding registry: Unknown registry: nonsense"},
		{"e", "5.0.0", "table", "empty", "Failed adding registry: Invalid route info"},
	}
	for _, tt := range tests {
		routes := column
		if tt.item == "empty" {
			routes = nil
		}
		if got := register(tt.name, tt.sdk, tt.registry, tt.item, routes); got != tt.want {
			t.Errorf("register %s: %q, want %q", tt.name, got, tt.want)
		}
	}
	if err := w.Do(ctx, osquerydtest.Action{Do: osquerydtest.DropRegistration, Text: "first"}); err != nil {
		t.Fatal(err)
	}
	if err := w.Do(ctx, osquerydtest.Action{Do: osquerydtest.DropRegistration, Text: "first"}); err == nil {
		t.Error("dropping what is not registered: no error")
	}
}

func TestExitOnCommand(t *testing.T) {
	ctx := testContext(t)
	fake := osquerydtest.Start(t, osquerydtest.WithScript(fast))
	dir := root(t)
	writeConf(t, dir, "{}")
	r := start(t, fake, dir, "--disable_watchdog")
	w := r.ready(ctx)
	if err := w.Do(ctx, osquerydtest.Action{Do: osquerydtest.DeleteSocket}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "em")); !os.IsNotExist(err) {
		t.Errorf("the socket's file: %v", err)
	}
	if err := w.Do(ctx, osquerydtest.Action{Do: osquerydtest.Exit, Code: 5}); err != nil {
		t.Fatal(err)
	}
	if code := r.code(ctx); code != 5 {
		t.Errorf("exit code %d, want 5", code)
	}
	if err := w.RunSchedule(ctx); !errors.Is(err, osquerydtest.ErrProcessGone) {
		t.Errorf("a command to a dead process: %v", err)
	}
	if !strings.Contains(w.String(), dir) {
		t.Errorf("%s does not name its instance", w)
	}
}
