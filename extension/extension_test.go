package extension

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
	r := newRig(t, t.TempDir(), WithName("agent"), WithTables(hostTable("one", rows), hostTable("two", rows)))
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
	r := newRig(t, t.TempDir(), WithTables(hostTable("one", rows)))
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
	for _, want := range []string{"table 1: it is nil", `table 2: "a-b"`, `table 4: "x" is there twice`, "table 5: it panicked"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("SetTables says %v, want %q", err, want)
		}
	}
}

// badTable panics whatever it is asked.
type badTable struct{ Table }

func TestPromise09APanicNeverEndsTheHost(t *testing.T) {
	bubble(t, func(t *testing.T) {
		boom := func() { panic("boom") }
		r := newRig(t, t.TempDir(),
			WithTables(hostTable("t", func(context.Context, table.QueryContext) ([]map[string]string, error) { boom(); return nil, nil })),
			WithOnActivated(func(string) { boom() }),
			WithLogBatch(1, 1<<20, 0),
			WithTransport(Funcs{
				ConfigFunc:  func(context.Context, Node) (map[string]string, error) { boom(); return nil, nil },
				LogsFunc:    func(context.Context, Node, Batch) error { boom(); return nil },
				QueriesFunc: func(context.Context, Node) (QuerySet, error) { boom(); return QuerySet{}, nil },
				ResultsFunc: func(context.Context, Node, []Result) error { boom(); return nil },
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
	e, err := New(WithNode(testNode), WithDir(t.TempDir()), WithEmit(func(stats.Event) { panic("x") }))
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
	r := newRig(t, t.TempDir(), WithOnActivated(func(what string) {
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
	_, err := New(WithName("a b"), WithDir("rel"), WithTables(nil), WithConfigTimeout(0), WithTransportTimeout(-1),
		WithDrain(-1), WithAnswerTimeout(0), WithTableTimeout(0),
		WithLogBatch(0, 0, -1), WithQueueLimit(1), WithLineLimit(0), WithDeadLetterLimit(-1), WithBackfillRate(-1),
		WithBackoff(2, 1), WithLogger(nil), WithSigner(nil), WithNodeKeyStore(nil), WithConfigLimit(1), WithSync(SyncEvery(-1)))
	if err == nil {
		t.Fatal("accepted")
	}
	for _, option := range []string{
		"WithNode", "WithName", "WithDir", "WithTables", "WithConfigTimeout", "WithTransportTimeout", "WithDrain", "WithLogBatch",
		"WithQueueLimit", "WithLineLimit", "WithDeadLetterLimit", "WithBackfillRate", "WithBackoff", "WithLogger", "WithSigner",
		"WithAnswerTimeout", "WithTableTimeout", "WithNodeKeyStore", "WithConfigLimit", "WithSync",
	} {
		if !strings.Contains(err.Error(), "extension."+option+": ") {
			t.Errorf("nothing is said of %s", option)
		}
	}
	_, err = New(WithNode(testNode), WithDir(t.TempDir()), WithQueueLimit(1<<20), WithLineLimit(1<<20))
	if err == nil || !strings.Contains(err.Error(), "WithLineLimit") {
		t.Errorf("a line that cannot fit: %v", err)
	}
}

func TestTwoExtensionsCannotShareADirectory(t *testing.T) {
	dir := t.TempDir()
	newRig(t, dir)
	if _, err := New(WithNode(testNode), WithDir(dir)); err == nil {
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

var _ Table = (*table.Plugin)(nil)

func TestConcurrentUse(t *testing.T) {
	mem := NewMemory()
	r := newRig(t, t.TempDir(), WithTransport(mem), WithTables(hostTable("t", rows)), WithLogBatch(10, 1<<20, time.Millisecond))
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
	equal(t, "lines", len(mem.Logs("a", QueueResults)), 160)
	equal(t, "ping", r.Ping().Code, 0)
}

func TestHangingTableIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		hang := make(chan struct{})
		calls := make(chan struct{}, 100)
		r := newRig(t, t.TempDir(), WithTableTimeout(5*time.Second),
			WithTables(hostTable("t", func(context.Context, table.QueryContext) ([]map[string]string, error) {
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
		r := newRig(t, t.TempDir(), WithLogBatch(1, 1<<20, 0), WithHead(func() stats.Head { return stats.Head{} }),
			WithConfigPolicy(func(_ context.Context, _ Node, c map[string]string) (map[string]string, error) {
				broken.Store(true)
				return c, nil
			}),
			WithNode(func() Node {
				if broken.Load() {
					panic("boom")
				}
				return testNode()
			}),
			WithTransport(Funcs{
				ConfigFunc: func(context.Context, Node) (map[string]string, error) { broken.Store(true); return nil, nil },
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
