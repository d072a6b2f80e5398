package plugin

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/internal/delivery"
	"github.com/osqvisor/osqvisor/internal/guard"
	"github.com/osqvisor/osqvisor/stats"
)

// broker is a query broker that can be changed.
type broker struct {
	set     extension.QuerySet
	err     error
	calls   int
	results []extension.Result
	write   func() error
}

func (b *broker) queries(context.Context, extension.Node) (extension.QuerySet, error) {
	b.calls++
	return b.set, b.err
}

func (b *broker) take(_ context.Context, _ extension.Node, r []extension.Result) error {
	if b.write != nil {
		if err := b.write(); err != nil {
			return err
		}
	}
	b.results = append(b.results, r...)
	return nil
}

func queriesFrom(b *broker) option {
	return withTransport(extension.Funcs{QueriesFunc: b.queries, ResultsFunc: b.take})
}

func (r *rig) getQueries() string {
	r.t.Helper()
	resp := r.Call(r.t.Context(), "distributed", "osqvisor", map[string]string{"action": "getQueries"})
	if resp.Status.Code != 0 {
		return "failed: " + resp.Status.Message
	}
	return resp.Response[0]["results"]
}

func (r *rig) writeResults(text string) int32 {
	r.t.Helper()
	req := map[string]string{"action": "writeResults", "results": text}
	return r.Call(r.t.Context(), "distributed", "osqvisor", req).Status.Code
}

func TestQueriesAsOsquerydReadsThem(t *testing.T) {
	b := &broker{}
	r := newRig(t, t.TempDir(), queriesFrom(b))
	equal(t, "nothing", r.getQueries(), `{"queries":{}}`)
	b.set = extension.QuerySet{
		Queries: map[string]string{"a": "select 1", "b": "select '<'"}, Discovery: map[string]string{"b": "select 2", "c": "x"},
		AccelerateSeconds: 60,
	}
	var got map[string]any
	if err := json.Unmarshal([]byte(r.getQueries()), &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"queries": map[string]any{"a": "select 1", "b": "select '<'"}, "discovery": map[string]any{"b": "select 2"},
		"accelerate": 60.0,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestQueriesHonourRetryAfter(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := &broker{err: extension.RetryAfter(time.Minute, errDown)}
		r := newRig(t, t.TempDir(), queriesFrom(b))
		equal(t, "answer", r.getQueries(), "failed: error getting queries: the server is down (retry after 1m0s)")
		pass(59 * time.Second)
		equal(t, "answer while waiting", r.getQueries(), `{"queries":{}}`)
		equal(t, "calls", b.calls, 1)
		pass(time.Second)
		r.getQueries()
		equal(t, "calls", b.calls, 2)
	})
}

const written = `{"queries":{"a":[{"x":"1"},{"y":7,"z":null}],"b":"","c":[]},"statuses":{"a":0,"b":"1","c":1,"d":0},` +
	`"messages":{"a":"","b":"no such table","c":"distributed query is denylisted"},` +
	`"stats":{"a":{"wall_time_ms":5,"user_time":"6","system_time":7,"memory":8},"b":{},"c":""}}`

func writtenResults() []extension.Result {
	empty := json.RawMessage("[]")
	return []extension.Result{
		{ID: "a", Rows: json.RawMessage(`[{"x":"1"},{"y":7,"z":null}]`),
			Stats: &extension.QueryStats{WallTimeMS: 5, UserTime: 6, SystemTime: 7, Memory: 8}},
		{ID: "b", Status: 1, Message: "no such table", Rows: empty},
		{ID: "c", Status: 1, Message: delivery.DenylistedMessage, Rows: empty},
		{ID: "d", Rows: empty},
	}
}

func TestResultsArePreserved(t *testing.T) {
	b := &broker{}
	r := newRig(t, t.TempDir(), queriesFrom(b))
	equal(t, "answer", r.writeResults(written), 0)
	if err := r.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(writtenResults(), b.results); d != "" {
		t.Error(d)
	}
	denied := eventsOf[stats.QueryDenylisted](r)
	equal(t, "denylisted", len(denied), 1)
	equal(t, "denylisted query", denied[0].Query, "c")
	equal(t, "answer to rubbish", r.writeResults("{"), 0)
	r.shut()
	lost := eventsOf[stats.LogsDropped](r)
	equal(t, "announcements", len(lost), 1)
	equal(t, "reason", lost[0].Reason, "malformed")
}

func TestResultsSurviveARestart(t *testing.T) {
	dir := t.TempDir()
	b := &broker{write: func() error { return errDown }}
	r := newRig(t, dir, queriesFrom(b))
	equal(t, "answer", r.writeResults(written), 0)
	if err := r.Flush(t.Context()); !errors.Is(err, errDown) {
		t.Fatal(err)
	}
	r.shut()
	if runtime.GOOS != "windows" {
		files, _ := filepath.Glob(filepath.Join(dir, "queue", "distributed", "*.spool"))
		for _, f := range files {
			info, err := os.Stat(f)
			if err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("%s: %v %v", f, info.Mode(), err)
			}
		}
		equal(t, "files", len(files), 1)
	}
	b.write = nil
	r = newRig(t, dir, queriesFrom(b))
	if err := r.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(writtenResults(), b.results); d != "" {
		t.Error(d)
	}
}

func TestResultsGoOutAtOnceWhileRunning(t *testing.T) {
	bubble(t, func(t *testing.T) {
		mem := extension.NewMemory()
		r := newRig(t, t.TempDir(), withTransport(mem))
		r.start()
		wait := mem.Ask("a", "select 1")
		equal(t, "queries", r.getQueries(), `{"queries":{"q1":"select 1"}}`)
		start := time.Now()
		r.writeResults(`{"queries":{"q1":[{"1":"1"}]},"statuses":{"q1":0},"messages":{},"stats":{}}`)
		got, err := wait(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "rows", string(got.Rows), `[{"1":"1"}]`)
		equal(t, "took", time.Since(start), 0)
	})
}

func TestResultsWithoutADiskGoStraightOrStayWithOsqueryd(t *testing.T) {
	b := &broker{}
	r := newRig(t, t.TempDir(), queriesFrom(b))
	r.dist.results.Store = &fullDisk{Store: r.dist.results.Store, full: true}
	equal(t, "answer", r.writeResults(written), 0)
	equal(t, "results", len(b.results), 4)
	b.write = func() error { return errDown }
	equal(t, "answer when the server is down too", r.writeResults(written), 1)
}

func TestRefusedResultsAreDroppedAndAnnounced(t *testing.T) {
	b := &broker{write: func() error { return extension.ErrPermanent }}
	r := newRig(t, t.TempDir(), queriesFrom(b))
	r.writeResults(written)
	if err := r.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.shut()
	equal(t, "announcements", len(eventsOf[stats.LogsDropped](r)), 1)
}

func TestFailingDiscoveryIsAnswered(t *testing.T) {
	b := &broker{set: extension.QuerySet{
		Queries:   map[string]string{"yes": "y", "no": "n", "bad": "b", "panic": "p", "always": "a", "empty": "", "nodisc": "x", "": "e"},
		Discovery: map[string]string{"yes": "one", "no": "none", "bad": "fail", "panic": "panic", "nodisc": ""},
	}}
	r := newRig(t, t.TempDir(), queriesFrom(b), withDiscovery(func(_ context.Context, sql string) (int, error) {
		switch sql {
		case "one":
			return 1, nil
		case "fail":
			return 0, errors.New("no such table: t")
		case "panic":
			panic("boom")
		}
		return 0, nil
	}))
	equal(t, "queries", r.getQueries(), `{"queries":{"always":"a","yes":"y"}}`)
	if err := r.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, res := range b.results {
		equal(t, "status of "+res.ID, res.Status, 1)
		got[res.ID] = res.Message
	}
	want := map[string]string{
		"bad": "discovery query failed: no such table: t", "panic": "discovery query failed: discovery panicked: boom",
		"empty": "the query is empty", "nodisc": "discovery query failed: the discovery query is empty",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	equal(t, "events", len(eventsOf[stats.DiscoveryFailed](r)), 4)
}

func FuzzParseResults(f *testing.F) {
	f.Add([]byte(written))
	f.Add([]byte(`{"queries":{"a":{}},"statuses":[],"messages":{"a":1},"stats":{"a":{"memory":"x"}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		results, err := delivery.ParseResults(data)
		if err != nil {
			return
		}
		for _, r := range results {
			if !json.Valid(r.Rows) {
				t.Fatalf("%q has the rows %q", r.ID, r.Rows)
			}
		}
		text, err := delivery.EncodeResults(results)
		if err != nil {
			t.Fatal(err)
		}
		again, err := delivery.ParseResults(text)
		if err != nil || len(again) != len(results) {
			t.Fatalf("%d results became %d: %v", len(results), len(again), err)
		}
	})
}

func FuzzQuestions(f *testing.F) {
	f.Add("id", "select 1", "select 2", 5)
	f.Fuzz(func(t *testing.T, id, sql, discovery string, accelerate int) {
		say := &guard.Announcer{Emit: func(stats.Event) {}, Head: func() stats.Head { return stats.Head{} }, Warn: func(string, ...any) {}}
		d := &distributed{set: &Settings{}, events: say}
		set := extension.QuerySet{Queries: map[string]string{id: sql}, Discovery: map[string]string{id: discovery}}
		set.AccelerateSeconds = accelerate
		q, _ := d.check(t.Context(), set)
		for i, s := range q.Queries {
			if i == "" || s == "" || q.Discovery[i] == "" {
				t.Fatalf("osqueryd would drop the set for %q: %q, %q", i, s, q.Discovery[i])
			}
		}
		if q.Accelerate < 0 || q.Accelerate > 1<<31-1 {
			t.Fatalf("accelerate is %d", q.Accelerate)
		}
	})
}

func TestDistributedWaits(t *testing.T) {
	bubble(t, func(t *testing.T) {
		hang := make(chan struct{})
		r := newRig(t, t.TempDir(), withAnswerTimeout(5*time.Second), withTransport(extension.Funcs{
			QueriesFunc: func(context.Context, extension.Node) (extension.QuerySet, error) {
				<-hang
				return extension.QuerySet{}, nil
			},
		}))
		start := time.Now()
		r.getQueries()
		if took := time.Since(start); took > 6*time.Second {
			t.Errorf("osqueryd waited %v", took)
		}
		close(hang)
		synctest.Wait()
	})
}

// What the server refuses for good must not stay with osqueryd, which would send it
// again with everything that it answers later.
func TestResultsWithoutADiskThatAreRefusedAreDropped(t *testing.T) {
	for _, c := range []struct {
		err  error
		lost int
	}{{extension.ErrPermanent, 1}, {extension.ErrTooLarge, 1}, {extension.ErrUnsupported, 0}} {
		b := &broker{write: func() error { return c.err }}
		r := newRig(t, t.TempDir(), queriesFrom(b))
		r.dist.results.Store = &fullDisk{Store: r.dist.results.Store, full: true}
		equal(t, "answer after "+c.err.Error(), r.writeResults(written), 0)
		r.shut()
		equal(t, "announcements after "+c.err.Error(), len(eventsOf[stats.LogsDropped](r)), c.lost)
	}
}

func TestHangingDiscoveryIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		hang := make(chan struct{})
		b := &broker{set: extension.QuerySet{Queries: map[string]string{"a": "x"}, Discovery: map[string]string{"a": "y"}}}
		r := newRig(t, t.TempDir(), queriesFrom(b), withAnswerTimeout(5*time.Second),
			withDiscovery(func(context.Context, string) (int, error) { <-hang; return 1, nil }))
		time.AfterFunc(time.Minute, func() { close(hang) })
		start := time.Now()
		equal(t, "queries", r.getQueries(), `{"queries":{}}`)
		if took := time.Since(start); took > 6*time.Second {
			t.Errorf("osqueryd waited %v", took)
		}
		pass(2 * time.Minute)
	})
}
