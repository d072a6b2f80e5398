package plugin

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/osquery/osquery-go/plugin/table"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/stats"
)

func hostTable(name string, f table.GenerateFunc) *table.Plugin {
	return table.NewPlugin(name, []table.ColumnDefinition{table.TextColumn("x")}, f)
}

func rows(context.Context, table.QueryContext) ([]map[string]string, error) {
	return []map[string]string{{"x": "1"}}, nil
}

var generate = map[string]string{"action": "generate", "context": "{}"}

func TestRegistryAndRouting(t *testing.T) {
	r := newRig(t, t.TempDir(), func(s *Settings) { s.Name = "agent" }, withTables(hostTable("one", rows), hostTable("two", rows)))
	equal(t, "name", r.Name(), "agent")
	reg := r.Registry()
	for _, kind := range []string{"config", "logger", "distributed"} {
		if _, ok := reg[kind]["agent"]; !ok || len(reg[kind]) != 1 {
			t.Errorf("%s has %v", kind, reg[kind])
		}
	}
	equal(t, "tables", len(reg["table"]), 2)
	resp := r.Call(t.Context(), "table", "one", generate)
	equal(t, "row", resp.Response[0]["x"], "1")
	equal(t, "column", r.Call(t.Context(), "table", "one", map[string]string{"action": "columns"}).Response[0]["name"], "x")
	for _, c := range [][3]string{
		{"nope", "x", "Unknown registry: nope"},
		{"table", "x", "Unknown registry item: x"},
		{"config", "osqvisor", "Unknown registry item: osqvisor"},
	} {
		status := r.Call(t.Context(), c[0], c[1], nil).Status
		equal(t, "message", status.Message, c[2])
		equal(t, "status", status.Code, 1)
	}
	for _, kind := range []string{"config", "distributed"} {
		equal(t, "unknown action", r.Call(t.Context(), kind, "agent", nil).Status.Message, "unknown action: ")
	}
}

func TestTablesChangeAtTheNextRegistration(t *testing.T) {
	r := newRig(t, t.TempDir(), withTables(hostTable("one", rows)))
	r.Registry()
	if err := r.SetTables(hostTable("two", rows)); err != nil {
		t.Fatal(err)
	}
	equal(t, "the old table before", r.Call(t.Context(), "table", "one", generate).Status.Code, 0)
	r.Registry()
	equal(t, "the old table after", r.Call(t.Context(), "table", "one", generate).Status.Code, 1)
	equal(t, "the new table", r.Call(t.Context(), "table", "two", generate).Status.Code, 0)
	r.ParkTable("two")
	equal(t, "tables after parking", len(r.Registry()["table"]), 0)
	err := r.SetTables(nil, hostTable("a-b", rows), hostTable("x", rows), hostTable("x", rows), &badTable{})
	for _, want := range []string{"table 1: it is nil", `table 2: "a-b"`, `table 4: "x" is there twice`, "table 5: the table panicked"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("SetTables says %v, want %q", err, want)
		}
	}
}

// badTable panics whatever it is asked.
type badTable struct{ extension.Table }

func TestPromise09APanicNeverEndsTheHost(t *testing.T) {
	bubble(t, func(t *testing.T) {
		boom := func() { panic("boom") }
		r := newRig(t, t.TempDir(),
			withTables(hostTable("t", func(context.Context, table.QueryContext) ([]map[string]string, error) { boom(); return nil, nil })),
			withOnActivated(func(string) { boom() }),
			withLogBatch(1, 1<<20, 0),
			withTransport(extension.Funcs{
				ConfigFunc: func(context.Context, extension.Node) (map[string]string, error) { boom(); return nil, nil },
				LogsFunc:   func(context.Context, extension.Node, extension.Batch) error { boom(); return nil },
				QueriesFunc: func(context.Context, extension.Node) (extension.QuerySet, error) {
					boom()
					return extension.QuerySet{}, nil
				},
				ResultsFunc: func(context.Context, extension.Node, []extension.Result) error { boom(); return nil },
			}))
		r.Registry()
		r.start()
		equal(t, "table", r.Call(t.Context(), "table", "t", generate).Status.Message, "table t panicked: boom")
		_, status := r.config()
		equal(t, "config", status.Code, 1)
		r.getQueries()
		r.log("string", "x")
		r.writeResults(written)
		synctest.Wait()
		where := map[string]bool{}
		for _, e := range eventsOf[stats.PanicCaught](r) {
			where[e.Where] = true
			if !strings.Contains(e.Stack, "extension_test.go") {
				t.Errorf("the stack of %s does not show where", e.Where)
			}
		}
		for _, want := range []string{
			"table t", "activation hook", "transport config", "transport logs results", "transport queries", "transport results",
		} {
			if !where[want] {
				t.Errorf("nothing says that %q panicked: %v", want, where)
			}
		}
	})
}

func TestPanickingEventHook(t *testing.T) {
	e, err := open(withNode(testNode), withDir(t.TempDir()), withEmit(func(stats.Event) { panic("x") }))
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "status", e.Call(t.Context(), "config", "osqvisor", map[string]string{"action": "genConfig"}).Status.Code, 0)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestActivationIsToldOncePerRegistration(t *testing.T) {
	var mu sync.Mutex
	var got []string
	r := newRig(t, t.TempDir(), withOnActivated(func(what string) {
		mu.Lock()
		defer mu.Unlock()
		got = append(got, what)
	}))
	for range 2 {
		r.Registry()
		for range 2 {
			r.config()
			r.logger(map[string]string{"init": "osqueryd", "log": "[]"})
			r.getQueries()
		}
	}
	sameLines(t, got, []string{"config", "logger", "distributed", "config", "logger", "distributed"})
}

func TestNewReportsAllMistakes(t *testing.T) {
	_, err := New(Settings{
		Name: "a b", Dir: "rel", Tables: []extension.Table{nil}, Keys: (*keyStore)(nil), TableTimeout: -1,
		Config: extension.Config{Timeout: -1, Limit: 1, Probation: 25 * time.Hour},
		Logs: extension.Logs{
			BatchLines: -1, BatchBytes: -1, QueueBytes: 1, LineLimit: -1, WhenFull: 7, BackfillRate: -1, Signer: oddSigner{},
			Delivery: extension.Delivery{Timeout: -1, FirstWait: 2, LongestWait: 1, MaxAttempts: 1, MaxAge: -1, ResultMaxAge: 1},
		},
		Distributed: extension.Distributed{AnswerTimeout: -1},
		Enrolment:   extension.Enrolment{Interval: 1, PerMinute: -1},
	})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, option := range []string{
		"Node", "Name", "WithDirectory", "WithTables", "WithNodeKeyStore", "TableTimeout", "WithConfig: Timeout", "WithConfig: Limit",
		"WithConfig: Probation", "WithLogs: BatchLines", "WithLogs: BatchBytes", "WithLogs: QueueBytes", "WithLogs: LineLimit",
		"WithLogs: WhenFull", "WithLogs: BackfillRate", "WithLogs: Signer", "WithLogs: Delivery.Timeout", "WithLogs: Delivery.LongestWait",
		"WithLogs: Delivery.MaxAttempts", "WithLogs: Delivery.MaxAge", "WithLogs: Delivery.ResultMaxAge",
		"WithDistributed: AnswerTimeout", "WithEnrolment: Interval", "WithEnrolment: PerMinute",
	} {
		if !strings.Contains("\n"+err.Error(), "\n"+option+": ") {
			t.Errorf("%s is not reported", option)
		}
	}
	_, err = open(withDir(t.TempDir()), withQueueLimit(1<<20), withLineLimit(1<<20))
	if err == nil || !strings.Contains(err.Error(), "LineLimit") {
		t.Errorf("a line that cannot fit: %v", err)
	}
}

func TestTwoExtensionsCannotShareADirectory(t *testing.T) {
	dir := t.TempDir()
	newRig(t, dir)
	if _, err := open(withNode(testNode), withDir(dir)); err == nil {
		t.Error("two extensions share a directory")
	}
}

func TestRunTwiceAtOnceIsRefused(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, t.TempDir())
		r.start()
		synctest.Wait()
		if err := r.Run(t.Context()); !errors.Is(err, ErrRunning) {
			t.Error(err)
		}
	})
}

func TestFetchConfigEndsWithItsContext(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, t.TempDir(), configFrom(&source{delay: time.Minute}))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, _, err := r.FetchConfig(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
}

var _ extension.Table = (*table.Plugin)(nil)

func TestConcurrentUse(t *testing.T) {
	mem := extension.NewMemory()
	r := newRig(t, t.TempDir(), withTransport(mem), withTables(hostTable("t", rows)), withLogBatch(10, 1<<20, time.Millisecond))
	r.Registry()
	stop := r.start()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				r.log("string", "x")
				r.config()
				r.getQueries()
				r.writeResults(written)
				r.Call(context.Background(), "table", "t", generate)
				r.Registry()
				r.ParkTable("u")
				_ = r.SetTables(hostTable("t", rows))
				_, _, _ = r.FetchConfig(context.Background())
				_ = r.Flush(context.Background())
				r.Pending()
			}
		})
	}
	wg.Wait()
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	equal(t, "lines", len(mem.Logs("a", extension.QueueResults)), 160)
	equal(t, "ping", r.Ping().Code, 0)
}

func TestHangingTableIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		hang := make(chan struct{})
		calls := make(chan struct{}, 100)
		r := newRig(t, t.TempDir(), withTableTimeout(5*time.Second),
			withTables(hostTable("t", func(context.Context, table.QueryContext) ([]map[string]string, error) {
				calls <- struct{}{}
				<-hang
				return nil, nil
			}), hostTable("u", rows)))
		r.Registry()
		var wg sync.WaitGroup
		start := time.Now()
		for range 20 {
			wg.Go(func() { equal(t, "status", r.Call(t.Context(), "table", "t", generate).Status.Code, 1) })
		}
		wg.Wait()
		if took := time.Since(start); took > 6*time.Second {
			t.Errorf("osqueryd waited %v", took)
		}
		equal(t, "calls", len(calls), tableCalls)
		equal(t, "another table", r.Call(t.Context(), "table", "u", generate).Status.Code, 0)
		close(hang)
		synctest.Wait()
		equal(t, "after it returned", r.Call(t.Context(), "table", "t", generate).Status.Code, 0)
	})
}

func TestPromise09APanicInWithNodeNeverEndsTheHost(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var broken atomic.Bool
		s := &sink{}
		r := newRig(t, t.TempDir(), withLogBatch(1, 1<<20, 0), func(s *Settings) { s.Head = func() stats.Head { return stats.Head{} } },
			withConfigPolicy(func(_ context.Context, _ extension.Node, c map[string]string) (map[string]string, error) {
				broken.Store(true)
				return c, nil
			}),
			withNode(func() extension.Node {
				if broken.Load() {
					panic("boom")
				}
				return testNode()
			}),
			withTransport(extension.Funcs{
				ConfigFunc: func(context.Context, extension.Node) (map[string]string, error) { broken.Store(true); return nil, nil },
				LogsFunc:   s.publish,
			}))
		r.start()
		_, status := r.config()
		equal(t, "config", status.Message, "error getting config: the config is refused: node panicked: boom")
		r.logLines(1)
		synctest.Wait()
		equal(t, "tries", len(s.ids()), 0)
		broken.Store(false)
		pass(time.Minute)
		synctest.Wait()
		sameLines(t, s.ids(), []string{"a/results/1-1"})
	})
}

// Only a registration of the plugins makes an osqueryd one that has nothing yet.
func TestLookingAtTablesForgetsNoConfig(t *testing.T) {
	mem := extension.NewMemory()
	r := newRig(t, t.TempDir(), withTransport(mem))
	r.config()
	changed := func() bool {
		t.Helper()
		_, changed, err := r.FetchConfig(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return changed
	}
	equal(t, "changed at once", changed(), false)
	equal(t, "tables", r.HasTables(), false)
	equal(t, "table registry", len(r.TableRegistry()), 0)
	equal(t, "changed after a look at the tables", changed(), false)
	r.Registry()
	equal(t, "changed for an osqueryd that has nothing yet", changed(), true)
}
