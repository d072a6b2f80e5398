package plugin

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/osquery/osquery-go/gen/osquery"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/internal/delivery"
	"github.com/osqvisor/osqvisor/internal/record"
	"github.com/osqvisor/osqvisor/stats"
)

// rig is an extension with everything that a test looks at.
type rig struct {
	*Extension
	t        *testing.T
	counters record.Counters
	mu       sync.Mutex
	events   []stats.Event
	stop     func() error
}

// option sets one of the Settings of a test's extension.
type option func(*Settings)

func withTransport(t extension.Transport) option       { return func(s *Settings) { s.Transport = t } }
func withNode(f func() extension.Node) option          { return func(s *Settings) { s.Node = f } }
func withDir(dir string) option                        { return func(s *Settings) { s.Dir = dir } }
func withTables(t ...extension.Table) option           { return func(s *Settings) { s.Tables = t } }
func withEmit(f func(stats.Event)) option              { return func(s *Settings) { s.Emit = f } }
func withNodeKeyStore(k extension.NodeKeyStore) option { return func(s *Settings) { s.Keys = k } }
func withDrain(d time.Duration) option                 { return func(s *Settings) { s.Drain = d } }
func withDeferredQueues() option                       { return func(s *Settings) { s.DeferredQueues = true } }
func withTableTimeout(d time.Duration) option          { return func(s *Settings) { s.TableTimeout = d } }
func withConfigTimeout(d time.Duration) option         { return func(s *Settings) { s.Config.Timeout = d } }
func withConfigLimit(bytes int) option                 { return func(s *Settings) { s.Config.Limit = bytes } }
func withConfigPolicy(p extension.ConfigPolicy) option {
	return func(s *Settings) { s.Config.Policy = p }
}
func withOwnedOptions(names ...string) option { return func(s *Settings) { s.Config.Owned = names } }
func withConfigProbation(d time.Duration) option {
	return func(s *Settings) { s.Config.Probation = zeroOff(d) }
}
func withAnswerTimeout(d time.Duration) option {
	return func(s *Settings) { s.Distributed.AnswerTimeout = d }
}
func withTransportTimeout(d time.Duration) option {
	return func(s *Settings) { s.Logs.Delivery.Timeout = d }
}
func withSync(d time.Duration) option            { return func(s *Settings) { s.Logs.Sync = d } }
func withSigner(k crypto.Signer) option          { return func(s *Settings) { s.Logs.Signer = k } }
func withQueueLimit(bytes int64) option          { return func(s *Settings) { s.Logs.QueueBytes = bytes } }
func withLineLimit(bytes int) option             { return func(s *Settings) { s.Logs.LineLimit = bytes } }
func withBackfillRate(bytes int64) option        { return func(s *Settings) { s.Logs.BackfillRate = bytes } }
func withRawEvents(on bool) option               { return func(s *Settings) { s.Logs.RawEvents = on } }
func withFullQueue(f extension.FullQueue) option { return func(s *Settings) { s.Logs.WhenFull = f } }
func withDiskBudget(d *delivery.Budget) option   { return func(s *Settings) { s.Budget = d } }
func withOnActivated(f func(string)) option      { return func(s *Settings) { s.Activated = f } }
func withLateConfig(f func(map[string]string)) option {
	return func(s *Settings) { s.LateConfig = f }
}
func withHostDetails(f func(context.Context) map[string]map[string]string) option {
	return func(s *Settings) { s.HostDetails = f }
}
func withDiscovery(f func(context.Context, string) (int, error)) option {
	return func(s *Settings) { s.Discover = f }
}

// withLogBatch bounds batches; an age of 0 sends at once.
func withLogBatch(lines, bytes int, age time.Duration) option {
	return func(s *Settings) { s.Logs.BatchLines, s.Logs.BatchBytes, s.Logs.BatchAge = lines, bytes, zeroOff(age) }
}

func withBackoff(first, longest time.Duration) option {
	return func(s *Settings) { s.Logs.Delivery.FirstWait, s.Logs.Delivery.LongestWait = first, longest }
}

// withDelivery sets when what is refused is given up, and leaves the waits as they are.
func withDelivery(d extension.Delivery) option {
	return func(s *Settings) {
		to := &s.Logs.Delivery
		to.MaxAttempts, to.MaxAge, to.ResultMaxAge = d.MaxAttempts, d.MaxAge, d.ResultMaxAge
	}
}

// zeroOff makes of a 0 the value that switches off.
func zeroOff[T int | int64 | time.Duration](v T) T {
	if v == 0 {
		return -1
	}
	return v
}

// open makes an extension of a's directory that drains for five seconds.
func open(opts ...option) (*Extension, error) {
	set := Settings{Node: testNode, Drain: 5 * time.Second}
	for _, o := range opts {
		o(&set)
	}
	return New(set)
}

func testNode() extension.Node { return extension.Node{Instance: "a", Run: "r1"} }

// newRig makes an extension in dir, which Close of the rig or the end of the test closes.
func newRig(t *testing.T, dir string, opts ...option) *rig {
	t.Helper()
	r := &rig{t: t}
	opts = append([]option{
		withDir(dir), func(s *Settings) { s.Counters = &r.counters }, withSync(extension.SyncNever),
		withEmit(func(e stats.Event) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.events = append(r.events, e)
		}),
	}, opts...)
	e, err := open(opts...)
	if err != nil {
		t.Fatal(err)
	}
	r.Extension = e
	t.Cleanup(func() {
		if r.stop != nil {
			_ = r.stop()
		}
		_ = e.Close()
	})
	return r
}

// start runs the extension until the returned function is called.
func (r *rig) start() (stop func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	r.stop = sync.OnceValue(func() error {
		cancel()
		return <-done
	})
	return r.stop
}

func (r *rig) shut() {
	r.t.Helper()
	if r.stop != nil {
		if err := r.stop(); err != nil {
			r.t.Fatal(err)
		}
	}
	if err := r.Close(); err != nil {
		r.t.Fatal(err)
	}
}

// eventsOf returns the events of one type so far.
func eventsOf[E stats.Event](r *rig) []E {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []E
	for _, e := range r.events {
		if e, ok := e.(E); ok {
			out = append(out, e)
		}
	}
	return out
}

func (r *rig) config() (map[string]string, osquery.ExtensionStatus) {
	r.t.Helper()
	resp := r.Call(context.Background(), "config", "osqvisor", map[string]string{"action": "genConfig"})
	if resp.Status.Code != 0 {
		return nil, *resp.Status
	}
	return resp.Response[0], *resp.Status
}

func (r *rig) log(key, line string) {
	r.t.Helper()
	resp := r.Call(context.Background(), "logger", "osqvisor", map[string]string{key: line, "category": "event"})
	if resp.Status.Code != 0 {
		r.t.Fatalf("%s was answered %d", key, resp.Status.Code)
	}
}

func (r *rig) logLines(n int) []string {
	r.t.Helper()
	var want []string
	for i := range n {
		line := fmt.Sprintf(`{"n":%d}`, i)
		r.log("string", line)
		want = append(want, line)
	}
	return want
}

// bubble runs f with a clock of its own.
func bubble(t *testing.T, f func(t *testing.T)) { t.Helper(); synctest.Test(t, f) }

// pass lets time pass in a bubble, where it takes none.
func pass(d time.Duration) {
	time.Sleep(d) //nolint:forbidigo // a bubble's clock moves only while everything in it sleeps
}

// sink is a log sink that fails as it is told and remembers what it took.
type sink struct {
	mu      sync.Mutex
	fail    func(extension.Batch) error
	tries   []extension.Batch
	taken   []extension.Batch
	arrived []time.Time
}

func (s *sink) publish(_ context.Context, _ extension.Node, b extension.Batch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tries = append(s.tries, b)
	s.arrived = append(s.arrived, time.Now())
	if s.fail != nil {
		if err := s.fail(b); err != nil {
			return err
		}
	}
	s.taken = append(s.taken, b)
	return nil
}

func (s *sink) lines() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, b := range s.taken {
		for _, l := range b.Lines {
			out = append(out, string(l))
		}
	}
	return out
}

// ids returns the ids of all tries, without the epoch, which is random.
func (s *sink) ids() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, b := range s.tries {
		out = append(out, short(b.ID))
	}
	return out
}

// short takes the epoch out of the id of a batch.
func short(id string) string {
	parts := strings.Split(id, "/")
	if len(parts) != 4 || len(parts[2]) != 32 {
		return "no id of a batch: " + id
	}
	return strings.Join([]string{parts[0], parts[1], parts[3]}, "/")
}

func (s *sink) set(fail func(extension.Batch) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = fail
}

func logsTo(s *sink) option { return withTransport(extension.Funcs{LogsFunc: s.publish}) }

var errDown = errors.New("the server is down")

func equal[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func sameLines(t *testing.T, got, want []string) {
	t.Helper()
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got %d lines %.300q, want %d lines %.300q", len(got), got, len(want), want)
	}
}
