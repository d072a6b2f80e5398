package plugin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/internal/delivery"
	"github.com/osqvisor/osqvisor/internal/record"
	"github.com/osqvisor/osqvisor/internal/spool"
	"github.com/osqvisor/osqvisor/stats"
)

func (r *rig) logger(req map[string]string) (code int32) {
	r.t.Helper()
	return r.Call(r.t.Context(), "logger", "osqvisor", req).Status.Code
}

func TestLoggerKeepsBytes(t *testing.T) {
	mem := extension.NewMemory()
	r := newRig(t, t.TempDir(), withTransport(mem))
	odd := "{\"a\" : \"\\u003c<>&\xff\",\"b\":1.0}"
	r.log("string", odd)
	r.log("event", `{"e":1}`)
	r.log("snapshot", `{"snapshot":[]}`)
	r.log("string", "")
	batch, _ := json.Marshal([]string{`{"x":"1"}`, `{"y":"é"}`})
	equal(t, "string_batch", r.logger(map[string]string{"string_batch": string(batch)}), 0)
	equal(t, "broken batch", r.logger(map[string]string{"string_batch": "[x"}), 0)
	status := `[{"s":0,"f":"a.cpp","m":"says \"\": x"} , {"s":1}]`
	equal(t, "status", r.logger(map[string]string{"status": "true", "log": status}), 0)
	equal(t, "init", r.logger(map[string]string{"init": "osqueryd", "log": `[{"i":1}]`}), 0)
	equal(t, "broken status", r.logger(map[string]string{"status": "true", "log": `{]`}), 0)
	equal(t, "empty status", r.logger(map[string]string{"status": "true"}), 0)
	equal(t, "unknown", r.logger(map[string]string{"what": "x"}), 1)
	if err := r.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	sameLines(t, mem.Logs("a", extension.QueueResults), []string{odd, `{"e":1}`, `{"x":"1"}`, `{"y":"é"}`, "[x"})
	sameLines(t, mem.Logs("a", extension.QueueSnapshots), []string{`{"snapshot":[]}`})
	sameLines(t, mem.Logs("a", extension.QueueStatus), []string{`{"s":0,"f":"a.cpp","m":"says \"\": x"}`, `{"s":1}`, `{"i":1}`, `{]`})
}

func TestLoggerFeatures(t *testing.T) {
	for raw, want := range map[bool]int32{false: 1, true: 3} {
		r := newRig(t, t.TempDir(), withRawEvents(raw))
		equal(t, "features", r.logger(map[string]string{"action": "features"}), want)
	}
}

// fullDisk is a queue that refuses lines while full is true.
type fullDisk struct {
	delivery.Store
	full bool
}

func (f *fullDisk) Append(line []byte) (uint64, error) {
	if f.full {
		return 0, fmt.Errorf("append: %w", spool.ErrNoSpace)
	}
	return f.Store.Append(line)
}

func TestPromise08OsquerydIsNeverToldNo(t *testing.T) {
	bubble(t, func(t *testing.T) {
		mem := extension.NewMemory()
		r := newRig(t, t.TempDir(), withTransport(mem), withLogBatch(10, 1<<20, 0))
		disk := &fullDisk{Store: r.shippers[0].Store, full: true}
		r.shippers[0].Store = disk
		r.start()
		for range 100 {
			r.log("string", "lost")
		}
		pass(2 * time.Second)
		synctest.Wait()
		lost := uint64(0)
		for _, e := range eventsOf[stats.LogsDropped](r) {
			equal(t, "reason", e.Reason, "not written to the queue: no space left")
			lost += e.Lines
		}
		equal(t, "announced", lost, 100)
		if n := len(eventsOf[stats.LogsDropped](r)); n > 4 {
			t.Errorf("100 lost lines made %d events", n)
		}
		disk.full = false
		want := r.logLines(3)
		pass(2 * time.Second)
		synctest.Wait()
		sameLines(t, mem.Logs("a", extension.QueueResults), want)
		r.shut()
		r.log("string", "after the end")
	})
}

func TestQueueLimitIsAnnounced(t *testing.T) {
	r := newRig(t, t.TempDir(), logsTo(&sink{fail: func(extension.Batch) error { return errDown }}), withQueueLimit(1<<20))
	line := strings.Repeat("x", 10<<10)
	for range 200 {
		r.log("string", line)
	}
	kept := r.Pending()["results"]
	r.shut()
	var lost uint64
	for _, e := range eventsOf[stats.LogsDropped](r) {
		equal(t, "reason", e.Reason, "evicted")
		lost += e.Lines
	}
	if lost == 0 || kept+lost != 200 {
		t.Errorf("%d lines kept and %d announced, of 200", kept, lost)
	}
}

func TestLineCostsFewAllocations(t *testing.T) {
	r := newRig(t, t.TempDir(), logsTo(&sink{}))
	req := map[string]string{"string": strings.Repeat("x", 500), "category": "event"}
	ctx := t.Context()
	n := testing.AllocsPerRun(200, func() { r.Call(ctx, "logger", "osqvisor", req) })
	if n > 2 {
		t.Errorf("a line costs %v allocations", n)
	}
}

func BenchmarkLogLine(b *testing.B) {
	e, err := open(withNode(testNode), withDir(b.TempDir()), logsTo(&sink{}), withSync(extension.SyncNever))
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = e.Close() }()
	req := map[string]string{"string": strings.Repeat("x", 500), "category": "event"}
	b.ReportAllocs()
	for b.Loop() {
		e.Call(b.Context(), "logger", "osqvisor", req)
	}
}

func FuzzLogger(f *testing.F) {
	f.Add("string", "{}", `[{"s":0}]`)
	f.Add("status", "true", `[1,"",{}]`)
	f.Add("string_batch", `["a","b"]`, "")
	f.Add("init", "osqueryd", "[")
	r := fuzzLoggers(f)
	f.Fuzz(func(t *testing.T, key, value, log string) {
		resp := r.call(map[string]string{key: value, "log": log})
		switch key {
		case "string", "snapshot", "string_batch", "status", "init", "event", "health":
			if resp.Status.Code != 0 {
				t.Fatalf("%s was answered %d", key, resp.Status.Code)
			}
		}
	})
}

// fuzzLoggers makes a logger plugin over queues that keep nothing.
func fuzzLoggers(f *testing.F) *loggers {
	f.Helper()
	s := delivery.New(noQueue{}, delivery.Settings{
		Name: extension.QueueResults, Logs: extension.Logs{LineLimit: 1 << 20, Delivery: extension.Delivery{FirstWait: 1, LongestWait: 1}},
		Counters: &record.Counters{}, Drops: &delivery.Drops{}, Wake: func() {},
	})
	return newLoggers(s, s, s, &record.Counters{}, false)
}

type noQueue struct{ delivery.Store }

func (noQueue) Append([]byte) (uint64, error) { return 0, errors.New("no") }
func (noQueue) Stats() spool.Stats            { return spool.Stats{} }

// A batch's lines hold no line break, whatever osqueryd sent: what WriteTo and Gzip write
// has as many lines as the batch, with the same numbers.
func TestTrial10LinesHoldNoLineBreak(t *testing.T) {
	s := &sink{}
	r := newRig(t, t.TempDir(), logsTo(s))
	r.log("string", "{\n  \"a\": \"x\\ny\",\r\n  \"b\": [1.0,\n2]\n}\n")
	r.log("snapshot", "{\"s\":\n1}")
	r.log("event", "{\"e\":1}\n")
	r.log("string_batch", `["{\"b\":\n1}","plain"]`)
	r.log("string", "no JSON\nat\r\nall")
	r.log("string", "{\"raw\":\"in a\nstring\"}")
	r.log("string", " \n\t ")
	r.Call(t.Context(), "logger", "osqvisor", map[string]string{"status": "true", "log": "[{\"m\":\n\"x\"},\n{\"m\":\"y\"}]"})
	if err := r.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := map[extension.Queue][]string{
		extension.QueueResults: {
			"{   \"a\": \"x\\ny\",    \"b\": [1.0, 2] }", "{\"e\":1}", "{\"b\": 1}", "plain", `no JSON\nat\r\nall`,
			`{"raw":"in a\nstring"}`,
		},
		extension.QueueSnapshots: {"{\"s\": 1}"},
	}
	for _, b := range s.taken {
		if w := want[b.Queue]; w != nil && !slices.Equal(linesOf(b), w) {
			t.Errorf("%s: %q, want %q", b.Queue, linesOf(b), w)
		}
		countsAgree(t, b)
	}
	equal(t, "batches", len(s.taken), 3)
}

// countsAgree holds the lines that WriteTo writes against the numbers of the batch.
func countsAgree(t *testing.T, b extension.Batch) {
	t.Helper()
	var plain bytes.Buffer
	if _, err := b.WriteTo(&plain); err != nil {
		t.Fatal(err)
	}
	for what, n := range map[string]int{"held": len(b.Lines), "written": bytes.Count(plain.Bytes(), []byte("\n"))} {
		if n != int(b.Last-b.First+1) {
			t.Errorf("%s: %d lines are %s", b.ID, n, what)
		}
	}
}
