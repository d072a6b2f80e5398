package osquerydtest_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/osqvisor/osqvisor/instance/osquerydtest"
)

// recorder is a TB that remembers errors.
type recorder struct {
	errors   []string
	cleanups []func()
}

func (*recorder) Helper()            {}
func (r *recorder) Cleanup(f func()) { r.cleanups = append(r.cleanups, f) }
func (r *recorder) Errorf(format string, a ...any) {
	r.errors = append(r.errors, fmt.Sprintf(format, a...))
}
func (r *recorder) Fatalf(format string, a ...any) { r.Errorf(format, a...) }

func TestLeftoverProcessesAreReportedAndKilled(t *testing.T) {
	ctx := testContext(t)
	rec := &recorder{}
	fake := osquerydtest.Start(rec, osquerydtest.WithScript(fast), osquerydtest.WithGrace(10*time.Millisecond))
	dir := root(t)
	writeConf(t, dir, "{}")
	r := start(t, fake, dir)
	w := r.ready(ctx)
	fake.CheckLeaks(rec)
	if len(rec.errors) != 1 || !strings.Contains(rec.errors[0], fmt.Sprintf("worker pid %d", w.PID())) {
		t.Errorf("CheckLeaks says %q", rec.errors)
	}
	for _, f := range rec.cleanups {
		f()
	}
	if len(rec.errors) != 2 {
		t.Errorf("Close says %q", rec.errors)
	}
	r.code(ctx)
	if _, err := os.Stat(filepath.Dir(fake.Path())); !os.IsNotExist(err) {
		t.Errorf("the directory stays: %v", err)
	}
	if err := fake.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

func TestInvalidScript(t *testing.T) {
	_, err := osquerydtest.New(osquerydtest.WithScript(osquerydtest.Script{
		TimeScale: -1,
		Tables:    []osquerydtest.Table{{}},
		Rules: []osquerydtest.Rule{
			{}, {Phase: osquerydtest.PhaseReady, Action: osquerydtest.Action{Do: osquerydtest.Exit}, Fraction: 2},
		},
	}))
	for _, want := range []string{"time scales", "table 0", "rule 0", "rule 1"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v lacks %q", err, want)
		}
	}
}

func TestCopyOutlivesItsDeletion(t *testing.T) {
	ctx := testContext(t)
	fake := osquerydtest.Start(t, osquerydtest.WithCopy(), osquerydtest.WithScript(fast))
	dir := root(t)
	writeConf(t, dir, "{}")
	r := start(t, fake, dir)
	w := r.ready(ctx)
	if err := os.Remove(fake.Path()); err != nil {
		t.Fatal(err)
	}
	if err := w.Do(ctx, osquerydtest.Action{Do: osquerydtest.Kill}); err != nil {
		t.Fatal(err)
	}
	watcher, err := fake.WaitProcess(ctx, func(p *osquerydtest.Process) bool { return p.Role() == osquerydtest.RoleWatcher })
	if err != nil {
		t.Fatal(err)
	}
	if err := watcher.Do(ctx, osquerydtest.Action{Do: osquerydtest.Exit}); err != nil {
		t.Error(err)
	}
}

func TestUnsafeBinary(t *testing.T) {
	if os.PathSeparator == '\\' {
		t.Skip("no modes on Windows")
	}
	ctx := testContext(t)
	fake := osquerydtest.Start(t, osquerydtest.WithScript(fast))
	if err := os.Chmod(filepath.Dir(fake.Path()), 0o700|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	r := start(t, fake, root(t))
	if code := r.code(ctx); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	r.wantStderr("osqueryd has unsafe permissions: " + fake.Path())
}

func TestScheduleRunsByItself(t *testing.T) {
	ctx := testContext(t)
	fake := osquerydtest.Start(t, osquerydtest.WithScript(fast))
	dir := root(t)
	writeConf(t, dir, `{"packs": {"p": {"queries": {"q": {"query": "SELECT 1 AS one", "interval": 2, "snapshot": true}}}}}`)
	w := start(t, fake, dir).ready(ctx)
	waitStats(ctx, t, w, func(s osquerydtest.Stats) bool { return s.ResultLines >= 3 })
	raw, err := os.ReadFile(filepath.Join(dir, "osqueryd.snapshots.log"))
	if err != nil || !strings.Contains(string(raw), `"name":"pack_p_q"`) {
		t.Errorf("snapshots.log holds %q, error %v", raw, err)
	}
}

func TestSecondQueryBuildsASecondDatabase(t *testing.T) {
	ctx := testContext(t)
	fake := osquerydtest.Start(t, osquerydtest.WithScript(fast))
	dir := root(t)
	writeConf(t, dir, "{}")
	r := start(t, fake, dir)
	w := r.ready(ctx)
	slow := r.client()
	done := make(chan error, 1)
	go func() {
		_, err := slow.Query("SELECT sleep(0.3)")
		done <- err
	}()
	waitStats(ctx, t, w, func(s osquerydtest.Stats) bool { return s.Queries == 1 })
	if _, err := r.client().Query("SELECT 1"); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	s, err := w.Stats(ctx)
	if err != nil || s.MaxQueries != 2 || s.SecondDatabases != 1 {
		t.Errorf("stats %+v, error %v", s, err)
	}
}

func TestWaitGivesUp(t *testing.T) {
	ctx := testContext(t)
	fake := osquerydtest.Start(t)
	if err := fake.WaitIdle(ctx); err != nil {
		t.Error(err)
	}
	canceled, cancel := contextCanceled()
	defer cancel()
	if _, err := fake.WaitWorker(canceled, ""); !errors.Is(err, canceled.Err()) {
		t.Errorf("WaitWorker: %v", err)
	}
}
