package gameday

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/osqvisor/osqvisor/instance/osquerydtest"
	"github.com/osqvisor/osqvisor/stats"
)

// TestFaults injects every fault once, each as a subtest, into one running set.
func TestFaults(t *testing.T) {
	t.Run("fake", func(t *testing.T) { faultsOn(t, "") })
	if real := os.Getenv("OSQUERYD"); real != "" {
		t.Run("real", func(t *testing.T) { faultsOn(t, real) })
	}
}

func faultsOn(t *testing.T, osqueryd string) {
	t.Helper()
	goroutines := countGoroutines()
	w := startWorld(t, osqueryd)
	dice := rand.New(rand.NewPCG(7, 0))
	for _, f := range catalogue() {
		t.Run(f.name, func(t *testing.T) {
			if why := w.leavesOut(f); why != "" {
				t.Skip(why)
			}
			if osqueryd != "" && f.slow && testing.Short() {
				t.Skip("it takes a minute")
			}
			checkOutcome(t, w.drill(t.Context(), f, w.pick(dice, f)))
		})
	}
	checkEnd(t, w.close())
	if n := goroutines.leaked(); n > 0 {
		t.Errorf("%d goroutines are left", n)
	}
}

func startWorld(t *testing.T, osqueryd string) *world {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	if os.Getenv("OSQVISOR_TEST_LOG") != "" {
		log = logTo(true, t.Output())
	}
	w, err := newWorld(t.Context(), worldSettings{osqueryd: osqueryd, log: log, rare: 24, flood: 4 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.close() })
	if err := w.waitCalm(t.Context()); err != nil {
		t.Fatal(err)
	}
	return w
}

func checkOutcome(t *testing.T, o outcome) {
	t.Helper()
	if o.err != nil {
		t.Error(o.err)
	}
	if o.wrong > 0 {
		t.Errorf("%d runs ended by a wrong cause; reported was: %s", o.wrong, o.cause)
	}
	for _, d := range o.disturbed {
		t.Errorf("another instance was disturbed: %s", d)
	}
	for _, p := range o.orphans {
		t.Errorf("an orphan: %s", p)
	}
	t.Logf("detected by: %s; cause: %s; recovery: %v", o.detected, o.cause, o.recovery)
}

func checkEnd(t *testing.T, e end) {
	t.Helper()
	if e.err != nil {
		t.Error(e.err)
	}
	if len(e.orphans) > 0 || e.missing > 0 {
		t.Errorf("left alive: %v; lost: %v", e.orphans, e.lost)
	}
	if e.lines == 0 {
		t.Error("no line was acknowledged, so none could be lost")
	}
}

// TestHarnessCanFail breaks what the drills look for, one after the other.
func TestHarnessCanFail(t *testing.T) {
	w := startWorld(t, "")
	harmless := func(_ context.Context, s *strike) error { s.saw("nothing"); return nil }
	lethal := func(_ context.Context, s *strike) error { return kill(s.before.watcher) }
	worker := func(_ context.Context, s *strike) error { return kill(s.before.worker) }
	ended := kinds(stats.RunEnded{})
	for _, c := range []struct {
		fault fault
		bad   func(outcome) bool
	}{
		{fault{name: "nothing happens", inject: harmless}, func(o outcome) bool { return o.err == nil && o.wrong == 0 }},
		{
			fault{name: "another cause", inject: lethal, notice: ended, also: nil, causes: nil},
			func(o outcome) bool { return o.wrong == 1 },
		},
		{
			fault{name: "a run ends that should not", inject: func(ctx context.Context, s *strike) error {
				if err := lethal(ctx, s); err != nil {
					return err
				}
				_, err := s.await(ctx, ended, nil)
				s.saw("an end")
				return err
			}}, func(o outcome) bool { return o.wrong == 1 && o.cause == "signal" },
		},
		{
			fault{name: "no trace", inject: func(context.Context, *strike) error { return nil }},
			func(o outcome) bool { return o.err != nil },
		},
		{
			fault{name: "the wrong instance", inject: func(ctx context.Context, s *strike) error {
				other := w.ids[0]
				if other == s.id {
					other = w.ids[1]
				}
				l, err := w.ask(ctx, other)
				if err != nil {
					return err
				}
				s.saw("another one's end")
				from := w.journal.len()
				if err := kill(l.watcher); err != nil {
					return err
				}
				_, err = w.journal.wait(ctx, from, func(e stats.Event) bool { return e.Kind() == ended[0] })
				return err
			}}, func(o outcome) bool { return len(o.disturbed) == 1 },
		},
		{
			fault{name: "no end", inject: worker, notice: kinds(stats.WorkerLost{}), causes: anyOf(stats.CauseSignal)},
			func(o outcome) bool { return o.err != nil && o.wrong == 1 },
		},
	} {
		t.Run(c.fault.name, func(t *testing.T) {
			ctx := t.Context()
			if c.fault.name == "no end" { // it would wait for as long as a fault may take
				var cancel context.CancelFunc
				ctx, cancel = context.WithCancel(ctx)
				c.fault.sees = func(*strike, stats.Event) bool { cancel(); return true }
			}
			if o := w.drill(ctx, c.fault, w.ids[3]); !c.bad(o) {
				t.Errorf("the drill made of it: %+v", o)
			}
		})
	}
}

// TestReportCanFail has each number in the report spoil the verdict.
func TestReportCanFail(t *testing.T) {
	good := outcome{fault: "f", victim: "i1"}
	cases := map[string]func(*report){
		"nothing at all": func(*report) {},
		"not recovered":  func(r *report) { r.add(outcome{err: errors.New("no")}) },
		"wrong cause":    func(r *report) { r.add(outcome{wrong: 1}) },
		"disturbed":      func(r *report) { r.add(outcome{disturbed: []string{"i2"}}) },
		"orphan":         func(r *report) { r.add(outcome{orphans: []string{"pid 7"}}) },
		"left alive":     func(r *report) { r.add(good); r.takeEnd(end{orphans: []string{"pid 7"}}) },
		"lost line":      func(r *report) { r.add(good); r.takeEnd(end{missing: 1}) },
		"leaked":         func(r *report) { r.add(good); r.GoroutinesLeaked = 1 },
		"broken off":     func(r *report) { r.add(good); r.fail(errors.New("no")) },
	}
	for name, spoil := range cases {
		r := newReport(io.Discard)
		spoil(r)
		if r.conclude(); r.OK {
			t.Errorf("%s: the report is content: %+v", name, r)
		}
	}
	r := newReport(io.Discard)
	r.add(good)
	if r.conclude(); !r.OK {
		t.Errorf("one fault that was recovered from is no success: %+v", r)
	}
}

func TestLostLinesAreCounted(t *testing.T) {
	for name, c := range map[string]struct {
		acked, arrived      []int
		missing, disordered int
	}{
		"all":              {[]int{0, 1, 2}, []int{0, 1, 2}, 0, 0},
		"one missing":      {[]int{0, 1, 2}, []int{0, 2}, 1, 0},
		"out of order":     {[]int{0, 1, 2}, []int{0, 2, 1}, 0, 1},
		"twice":            {[]int{0, 1}, []int{0, 1, 1}, 0, 1},
		"not acknowledged": {[]int{0, 2}, []int{0, 2, 1}, 0, 0},
	} {
		if m, d := lost(c.acked, c.arrived); m != c.missing || d != c.disordered {
			t.Errorf("%s: %d missing, %d out of order; want %d, %d", name, m, d, c.missing, c.disordered)
		}
	}
}

// What takes a minute on a real osqueryd is not thrown the dice for: where nothing else is
// left, a game would spend its time looking.
func TestSlowFaultsAreNotRepeated(t *testing.T) {
	quick, slow := fault{name: "quick"}, fault{name: "slow", slow: true}
	both := []fault{slow, quick}
	for name, tt := range map[string]struct {
		w    *world
		in   []fault
		want int
	}{
		"real":           {&world{}, both, 1},
		"real, all slow": {&world{}, []fault{slow}, 0},
		"fake":           {&world{fake: &osquerydtest.Fake{}}, both, 2},
	} {
		if got := tt.w.repeatable(tt.in); len(got) != tt.want {
			t.Errorf("%s: %d faults are repeated, want %d", name, len(got), tt.want)
		}
	}
	if both[0].name != "slow" || both[1].name != "quick" {
		t.Errorf("the list itself was changed: %v, %v", both[0].name, both[1].name)
	}
}

// The README says in how many ways a running set is broken.
func TestReadmeCountsTheFaults(t *testing.T) {
	readme, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf(" in %d ways", len(catalogue())); !strings.Contains(string(readme), want) {
		t.Errorf("the README does not say %q", want)
	}
}

// TestCommand plays one fault by the command's own door.
func TestCommand(t *testing.T) {
	var stdout, stderr bytes.Buffer
	code := Main(t.Context(), []string{"-json", "-for", "0s", "-only", "kill -9 of the group"}, &stdout, &stderr)
	var rep map[string]any
	lines := strings.Split(strings.TrimSpace(stdout.String()), "\n")
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &rep); err != nil {
		t.Fatalf("%v in %q", err, stdout.String())
	}
	if code != 0 || rep["ok"] != true || rep["faults"] != 1.0 {
		t.Errorf("exit code %d, report %v\n%s", code, rep, stderr.String())
	}
	if code := Main(t.Context(), []string{"-for", "-1s"}, &stdout, &stderr); code != exitUsage {
		t.Errorf("a negative -for gave exit code %d, want %d", code, exitUsage)
	}
	if code := Main(t.Context(), []string{"-only", "no such fault"}, &stdout, &stderr); code != exitFailed {
		t.Errorf("a game without faults gave exit code %d, want %d", code, exitFailed)
	}
}
