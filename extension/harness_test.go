package extension

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/osquery/osquery-go/gen/osquery"

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

func testNode() Node { return Node{Instance: "a", Run: "r1"} }

// newRig makes an extension in dir, which Close of the rig or the end of the test closes.
func newRig(t *testing.T, dir string, opts ...Option) *rig {
	t.Helper()
	r := &rig{t: t}
	opts = append([]Option{
		WithNode(testNode), WithDir(dir), WithCounters(&r.counters), WithSync(SyncNever()),
		WithEmit(func(e stats.Event) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.events = append(r.events, e)
		}),
	}, opts...)
	e, err := New(opts...)
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

// eventsOf gives the events of one type so far.
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
	fail    func(Batch) error
	tries   []Batch
	taken   []Batch
	arrived []time.Time
}

func (s *sink) publish(_ context.Context, _ Node, b Batch) error {
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

// ids gives the ids of all tries, without the epoch, which is random.
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

func (s *sink) set(fail func(Batch) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = fail
}

func logsTo(s *sink) Option { return WithTransport(Funcs{LogsFunc: s.publish}) }

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
