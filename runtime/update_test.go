package runtime_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/osquery/osquery-go/plugin/table"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/internal/testhelp"
	"github.com/osqvisor/osqvisor/runtime"
	"github.com/osqvisor/osqvisor/stats"
)

// wantUpdate updates an instance and holds the answer and the process against what is expected.
func wantUpdate(t *testing.T, h *host, restart bool, changed []string, opts ...instance.Option) {
	t.Helper()
	pid := h.pid(t, "a")
	c, err := h.Update(testhelp.Context(t), "a", opts...)
	if err != nil {
		t.Fatal(err)
	}
	if c.Restarted != restart || !slices.Equal(c.Changed, changed) {
		t.Errorf("the answer is %+v, want restarted %v, changed %v", c, restart, changed)
	}
	h.ready(t, "a")
	if now := h.pid(t, "a"); (now != pid) != restart {
		t.Errorf("pid %d became %d, want another one: %v", pid, now, restart)
	}
	h.answers(t, "a")
}

// identifier asks osqueryd for its identifier, which is a flag.
func identifier(t *testing.T, h *host) string {
	t.Helper()
	rows, err := h.Query(testhelp.Context(t), "a", "select value from osquery_flags where name = 'specified_identifier'")
	if err != nil || rows.Len() != 1 {
		t.Fatalf("%d rows, %v", rows.Len(), err)
	}
	return rows.Row(0).Get("value")
}

func TestUpdateReplacesTheInstancesOwnOptions(t *testing.T) {
	testhelp.CheckLeaks(t)
	h := newHost(t, fakeWith(t), runtime.WithInstanceDefaults(instance.WithEnv("DEFAULT=1")), runtime.WithInstance("a"))
	h.run(t)
	h.ready(t, "a")
	wantUpdate(t, h, false, nil)
	wantUpdate(t, h, true, []string{"WithHostIdentifier"}, instance.WithHostIdentifier("one"))
	if got := identifier(t, h); got != "one" {
		t.Errorf("the identifier is %q", got)
	}
	wantUpdate(t, h, false, nil, instance.WithHostIdentifier("one"))
	wantUpdate(t, h, true, []string{"WithEnv", "WithHostIdentifier"}, instance.WithEnv("OWN=1"))
	if got := identifier(t, h); got != "" {
		t.Errorf("the identifier that was taken back is %q", got)
	}
	wantUpdate(t, h, true, []string{"WithEnv"})
	if s, _ := h.Snapshot("a"); s.Totals.Runs != 4 {
		t.Errorf("%d runs, want 4", s.Totals.Runs)
	}
	pid := h.pid(t, "a")
	if _, err := h.Update(testhelp.Context(t), "a", instance.WithFlag("no_such_flag", "1")); err == nil {
		t.Error("an unknown flag was accepted")
	}
	if h.pid(t, "a") != pid {
		t.Error("an update that was refused changed the process")
	}
	if _, err := h.Update(testhelp.Context(t), "a", instance.WithTransport(nil), instance.WithLabels(nil)); err == nil {
		t.Error("a nil transport was accepted")
	}
}

// colors is a transport that notes the label "color" of who fetches a config.
type colors struct {
	extension.Funcs
	seen chan string
}

func newColors() *colors {
	c := &colors{seen: make(chan string, 1000)}
	c.ConfigFunc = func(_ context.Context, n extension.Node) (map[string]string, error) {
		c.seen <- n.Labels["color"]
		return map[string]string{"a": "{}"}, nil
	}
	return c
}

func TestUpdateWithoutANewOsqueryd(t *testing.T) {
	testhelp.CheckLeaks(t)
	first, second := newColors(), newColors()
	h := newHost(t, fakeWith(t), runtime.WithInstance("a", instance.WithTransport(first)))
	h.run(t)
	h.ready(t, "a")
	color := instance.WithLabels(map[string]string{"color": "red"})
	wantUpdate(t, h, false, []string{"WithLabels"}, instance.WithTransport(first), color)
	wantUpdate(t, h, false, []string{"WithTransport"}, instance.WithTransport(second), color)
	if err := h.PushConfig(testhelp.Context(t), "a"); err != nil {
		t.Fatal(err)
	}
	if got := <-second.seen; got != "red" {
		t.Errorf("the new transport sees the label %q", got)
	}
	own := []instance.Option{instance.WithTransport(second), color}

	one, two := hostTable("facts", "1"), hostTable("facts", "2")
	for i, facts := range []extension.Table{one, two, one} {
		wantUpdate(t, h, false, []string{"WithTables"}, append(slices.Clone(own), instance.WithTables(facts))...)
		rows, err := h.Query(testhelp.Context(t), "a", "select value from facts")
		if want := []string{"1", "2", "1"}[i]; err != nil || rows.Len() != 1 || rows.Row(0).Get("value") != want {
			t.Errorf("the table has %v, %v; want %s", rows, err, want)
		}
	}
	wantUpdate(t, h, false, []string{"WithTables"}, own...)

	events := testhelp.NewEvents()
	for range 3 { // an observer does not multiply
		_, err := h.Update(testhelp.Context(t), "a", append(slices.Clone(own), instance.WithObserver(events))...)
		if err != nil {
			t.Fatal(err)
		}
	}
	wantUpdate(t, h, false, []string{"WithTimeouts"}, append(slices.Clone(own), instance.WithObserver(events),
		instance.WithTimeouts(instance.Timeouts{Stop: 10 * time.Second}))...)
	if err := h.Remove(testhelp.Context(t), "a"); err != nil {
		t.Fatal(err)
	}
	if n := len(testhelp.EventsOf[stats.InstanceRemoved](events, "a")); n != 1 {
		t.Errorf("the observer has the removal %d times", n)
	}
}

// What a health check is replaced by is in force from the next check on.
func TestUpdateOfHealthAndQueries(t *testing.T) {
	testhelp.CheckLeaks(t)
	h := newHost(t, fakeWith(t), runtime.WithInstance("a", instance.WithHealth(instance.Health{Interval: 20 * time.Millisecond})))
	h.run(t)
	h.ready(t, "a")
	checked := make(chan struct{}, 1000)
	check := func(context.Context, *instance.Instance) error {
		checked <- struct{}{}
		return nil
	}
	health := instance.WithHealth(instance.Health{Interval: 20 * time.Millisecond, Check: check})
	wantUpdate(t, h, false, []string{"WithHealth"}, health)
	<-checked
	wantUpdate(t, h, false, nil, health) // the same function
	wantUpdate(t, h, false, []string{"WithQueries"}, health, instance.WithQueries(instance.Queries{Timeout: time.Second}))
	wantUpdate(t, h, true, []string{"WithTimeouts"}, health, instance.WithQueries(instance.Queries{Timeout: time.Second}),
		instance.WithTimeouts(instance.Timeouts{Extensions: 9 * time.Second}))
}

// Batches have another size from the next one on, and osqueryd does not notice.
func TestUpdateOfLogsWithoutANewOsqueryd(t *testing.T) {
	testhelp.CheckLeaks(t)
	sizes := make(chan int, 1000)
	tr := extension.Funcs{
		ConfigFunc: func(context.Context, extension.Node) (map[string]string, error) {
			return map[string]string{"a": `{"schedule":{"t":{"query":"select 1","interval":1,"snapshot":true}}}`}, nil
		},
		LogsFunc: func(_ context.Context, _ extension.Node, b extension.Batch) error {
			if b.Queue == extension.QueueSnapshots {
				sizes <- len(b.Lines)
			}
			return nil
		},
	}
	to := instance.WithTransport(&tr)
	h := newHost(t, fakeWith(t), runtime.WithInstance("a", to, instance.WithLogs(extension.Logs{BatchLines: 1})))
	h.run(t)
	h.ready(t, "a")
	if n := <-sizes; n != 1 {
		t.Errorf("a batch of %d lines, want 1", n)
	}
	three := extension.Logs{BatchLines: 3, BatchAge: time.Hour}
	wantUpdate(t, h, false, []string{"WithLogs"}, to, instance.WithLogs(three))
	n := <-sizes
	for n == 1 { // what came before the update
		n = <-sizes
	}
	for range 3 {
		if n != 3 {
			t.Errorf("a batch of %d lines, want 3", n)
		}
		n = <-sizes
	}
	pid := h.pid(t, "a")
	if _, err := h.Update(testhelp.Context(t), "a", to, instance.WithLogs(extension.Logs{BatchLines: -1})); err == nil {
		t.Error("a batch of -1 lines was accepted")
	}
	if h.pid(t, "a") != pid {
		t.Error("an update that was refused changed the process")
	}
	three.QueueBytes = 32 << 20 // which an open queue cannot change
	wantUpdate(t, h, true, []string{"WithLogs"}, to, instance.WithLogs(three))
}

// What is left out and its default spelled out mean the same, and so do all values that switch off.
func TestUpdateComparesWhatOptionsMean(t *testing.T) {
	testhelp.CheckLeaks(t)
	h := newHost(t, fakeWith(t), runtime.WithInstance("a"))
	h.run(t)
	h.ready(t, "a")
	wantUpdate(t, h, false, nil,
		instance.WithConfig(extension.Config{
			Refresh: 5 * time.Minute, Timeout: 10 * time.Second, Limit: 1 << 20, Probation: 2 * time.Minute,
		}),
		instance.WithLogs(extension.Logs{
			BatchLines: 1000, BatchBytes: 1 << 20, BatchAge: 2 * time.Second, LineLimit: 8 << 20, QueueBytes: 64 << 20,
			DeadLetterBytes: 4 << 20, Sync: time.Second, Delivery: extension.Delivery{
				Timeout: time.Minute, FirstWait: time.Second, LongestWait: 5 * time.Minute, MaxAttempts: 10,
				MaxAge: 10 * time.Minute, ResultMaxAge: 24 * time.Hour,
			},
		}),
		instance.WithDistributed(extension.Distributed{Interval: time.Minute, AnswerTimeout: 30 * time.Second}),
		instance.WithTimeouts(instance.Timeouts{Start: time.Minute, Stop: 25 * time.Second, Extensions: 20 * time.Second}),
		instance.WithHealth(instance.Health{Interval: 10 * time.Second, Failures: 3}),
		instance.WithQueries(instance.Queries{Timeout: time.Minute, MaxBytes: 100 << 20, AbandonedWait: 5 * time.Second}))
	off := func(d time.Duration) []instance.Option {
		return []instance.Option{
			instance.WithLogs(extension.Logs{BatchAge: d, DeadLetterBytes: int64(d)}),
			instance.WithTimeouts(instance.Timeouts{Stop: d}), instance.WithHealth(instance.Health{Delay: d}),
			instance.WithQueries(instance.Queries{AbandonedWait: d}),
		}
	}
	wantUpdate(t, h, false, []string{"WithLogs", "WithTimeouts", "WithHealth", "WithQueries"}, off(-1)...)
	wantUpdate(t, h, false, nil, off(-5)...)
	wantUpdate(t, h, true, []string{"WithConfig"}, append(off(-1), instance.WithConfig(extension.Config{Refresh: -1}))...)
	wantUpdate(t, h, false, nil, append(off(-1), instance.WithConfig(extension.Config{Refresh: -2}))...)
}

func TestSyncMakesTheSet(t *testing.T) {
	testhelp.CheckLeaks(t)
	h := newHost(t, fakeWith(t))
	h.run(t)
	ctx := testhelp.Context(t)
	sync := func(want map[string][]instance.Option) map[string]runtime.Change {
		t.Helper()
		if err := h.CheckSync(ctx, want); err != nil {
			t.Error(err)
		}
		got, err := h.Sync(ctx, want)
		if err != nil {
			t.Fatal(err)
		}
		if ids := slices.Sorted(maps.Keys(want)); !slices.Equal(h.IDs(), ids) {
			t.Errorf("the set is %v, want %v", h.IDs(), ids)
		}
		h.ready(t, h.IDs()...)
		return got
	}
	got := sync(map[string][]instance.Option{"a": nil, "b": nil, "c": nil})
	for _, id := range []string{"a", "b", "c"} {
		if !got[id].Added {
			t.Errorf("%s: %+v, want added", id, got[id])
		}
	}
	pids := map[string]int{"a": h.pid(t, "a"), "b": h.pid(t, "b"), "c": h.pid(t, "c")}
	got = sync(map[string][]instance.Option{
		"a": nil, "b": {instance.WithLabels(map[string]string{"x": "y"})}, "d": {instance.WithEnv("A=1")},
	})
	if !got["c"].Removed || !got["d"].Added || len(got["a"].Changed) > 0 || !slices.Equal(got["b"].Changed, []string{"WithLabels"}) {
		t.Errorf("the answer is %+v", got)
	}
	if h.pid(t, "a") != pids["a"] || h.pid(t, "b") != pids["b"] || testhelp.Alive(pids["c"]) {
		t.Error("osqueryd was restarted without need, or is left")
	}
	// A directory moves on from an instance that leaves.
	dir := filepath.Join(h.root, "d")
	got = sync(map[string][]instance.Option{"a": {instance.WithEnv("A=2")}, "e": {instance.WithDirectory(dir)}})
	if !got["a"].Restarted || !got["e"].Added || !got["d"].Removed || h.pid(t, "a") == pids["a"] {
		t.Errorf("the answer is %+v", got)
	}
	got = sync(nil)
	if len(got) != 2 || !got["a"].Removed {
		t.Errorf("the answer is %+v", got)
	}
}

func TestSyncOfOneBadInstance(t *testing.T) {
	testhelp.CheckLeaks(t)
	h := newHost(t, fakeWith(t), runtime.WithInstance("bad"), runtime.WithInstance("gone"))
	h.run(t)
	h.ready(t, "bad", "gone")
	pid := h.pid(t, "bad")
	want := map[string][]instance.Option{
		"bad": {instance.WithFlag("no_such_flag", "1")}, "../worse": nil, "good": nil,
	}
	err := h.CheckSync(testhelp.Context(t), want)
	wantAll(t, err, `"bad"`, "no_such_flag", "../worse")
	if ids := h.IDs(); !slices.Equal(ids, []string{"bad", "gone"}) {
		t.Errorf("the check changed the set: %v", ids)
	}
	got, err := h.Sync(testhelp.Context(t), want)
	wantAll(t, err, `"bad"`, "no_such_flag", "../worse")
	if len(got) != 2 || !got["good"].Added || !got["gone"].Removed {
		t.Errorf("the answer is %+v", got)
	}
	h.ready(t, "good", "bad")
	if h.pid(t, "bad") != pid {
		t.Error("the instance with the mistake was restarted")
	}
}

func TestSyncsAtTheSameTime(t *testing.T) {
	testhelp.CheckLeaks(t)
	h := newHost(t, fakeWith(t))
	h.run(t)
	ctx := testhelp.Context(t)
	var calls sync.WaitGroup
	for n := range 4 {
		calls.Go(func() {
			want := map[string][]instance.Option{}
			for i := range n + 1 {
				want[fmt.Sprintf("i%d", i)] = []instance.Option{instance.WithEnv(fmt.Sprintf("N=%d", n))}
			}
			if _, err := h.Sync(ctx, want); err != nil {
				t.Error(err)
			}
		})
		calls.Go(func() {
			if err := h.Add("i0"); err != nil && !errors.Is(err, runtime.ErrExists) {
				t.Error(err)
			}
			if err := h.Remove(ctx, "i1"); err != nil && !errors.Is(err, runtime.ErrNotFound) {
				t.Error(err)
			}
		})
	}
	calls.Wait()
	want := map[string][]instance.Option{"i0": nil, "last": nil}
	if _, err := h.Sync(ctx, want); err != nil {
		t.Fatal(err)
	}
	h.ready(t, "i0", "last")
	if ids := h.IDs(); !slices.Equal(ids, []string{"i0", "last"}) {
		t.Errorf("the set is %v", ids)
	}
}

func TestCheckLeavesNothingBehind(t *testing.T) {
	testhelp.CheckLeaks(t)
	d, root := fakeWith(t), filepath.Join(testhelp.Root(t), "none")
	opts := []runtime.Option{runtime.WithBinary(d.path), runtime.WithRoot(root), runtime.WithInstance("a")}
	if err := runtime.Check(opts...); err != nil {
		t.Error(err)
	}
	err := runtime.Check(append(opts, runtime.WithInstance("a"), runtime.WithInstance("b", instance.WithFlag("no_such_flag", "1")))...)
	wantAll(t, err, `"a"`, "no_such_flag")
	if _, err := os.Stat(root); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the check made the root: %v", err)
	}
	h := newHost(t, d, runtime.WithInstance("a"))
	ctx := testhelp.Context(t)
	if err := errors.Join(h.Check(ctx, "a"), h.Check(ctx, "b")); err != nil {
		t.Error(err)
	}
	shared := instance.WithDirectory(filepath.Join(h.root, "a"))
	if err := h.Check(ctx, "b", shared); !errors.Is(err, runtime.ErrSharedDirectory) {
		t.Errorf("Check: %v, want ErrSharedDirectory", err)
	}
	if err := h.Check(ctx, "a", shared); err != nil {
		t.Error(err)
	}
	if entries, err := os.ReadDir(h.root); err != nil || len(entries) != 1 {
		t.Errorf("below the root is %v (%v), want the instance's directory alone", entries, err)
	}
}

func TestSetDefaultsRestartsWhatChanged(t *testing.T) {
	testhelp.CheckLeaks(t)
	h := newHost(t, fakeWith(t), runtime.WithInstance("a"), runtime.WithInstance("b", instance.WithHostIdentifier("own")))
	h.run(t)
	h.ready(t, "a", "b")
	a, b := h.pid(t, "a"), h.pid(t, "b")
	ctx := testhelp.Context(t)
	if _, err := h.SetDefaults(ctx, instance.WithFlag("no_such_flag", "1")); err == nil {
		t.Error("an unknown flag was accepted")
	}
	got, err := h.SetDefaults(ctx, instance.WithHostIdentifier("all"), instance.WithLabels(map[string]string{"x": "y"}))
	if err != nil {
		t.Fatal(err)
	}
	if !got["a"].Restarted || got["b"].Restarted || !slices.Equal(got["b"].Changed, []string{"WithLabels"}) {
		t.Errorf("the answer is %+v", got)
	}
	h.ready(t, "a", "b")
	if h.pid(t, "a") == a || h.pid(t, "b") != b {
		t.Error("another one was restarted than should be")
	}
	if got := identifier(t, h); got != "all" {
		t.Errorf("the identifier is %q", got)
	}
	a = h.pid(t, "a")
	if err := h.Add("late"); err != nil {
		t.Fatal(err)
	}
	got, err = h.SetDefaults(ctx)
	if err != nil || !got["a"].Restarted || !got["late"].Restarted {
		t.Errorf("the answer is %+v, %v", got, err)
	}
	h.ready(t, "a", "b", "late")
	if h.pid(t, "a") == a || h.pid(t, "b") != b {
		t.Error("another one was restarted than should be")
	}
}

func TestPurge(t *testing.T) {
	testhelp.CheckLeaks(t)
	d := fakeWith(t)
	h := newHost(t, d, runtime.WithInstance("a"), runtime.WithInstance("b"))
	h.run(t)
	h.ready(t, "a", "b")
	ctx := testhelp.Context(t)
	pid := h.pid(t, "a")
	if err := h.Purge(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(h.root, "a")); !errors.Is(err, os.ErrNotExist) || testhelp.Alive(pid) {
		t.Errorf("after Purge: %v, alive %v", err, testhelp.Alive(pid))
	}
	if err := h.Remove(ctx, "b"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(h.root, "strange"), 0o700); err != nil {
		t.Fatal(err)
	}
	orphans, err := h.Orphans()
	if err != nil || !slices.Equal(orphans, []string{"b"}) {
		t.Errorf("orphans %v, %v; want b", orphans, err)
	}
	other := newHostAt(t, d, h.root, runtime.WithInstance("b"))
	other.run(t)
	other.ready(t, "b")
	if err := h.Purge(ctx, "b"); !errors.Is(err, instance.ErrInUse) {
		t.Errorf("Purge of what another host uses: %v, want ErrInUse", err)
	}
	other.answers(t, "b")
	other.stop()
	if err := h.Purge(ctx, "strange"); err == nil || errors.Is(err, runtime.ErrNotFound) {
		t.Errorf("Purge of a directory of nobody's: %v", err)
	}
	if err := h.Purge(ctx, "b"); err != nil {
		t.Error(err)
	}
	for _, id := range []string{"b", "../strange", ""} {
		if err := h.Purge(ctx, id); !errors.Is(err, runtime.ErrNotFound) {
			t.Errorf("Purge of %q: %v, want ErrNotFound", id, err)
		}
	}
	if orphans, err := h.Orphans(); err != nil || len(orphans) > 0 {
		t.Errorf("orphans %v, %v; want none", orphans, err)
	}
}

// hostTable is a table of one row.
func hostTable(name, value string) extension.Table {
	return table.NewPlugin(name, []table.ColumnDefinition{table.TextColumn("value")},
		func(context.Context, table.QueryContext) ([]map[string]string, error) {
			return []map[string]string{{"value": value}}, nil
		})
}
