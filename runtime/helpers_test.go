package runtime_test

import (
	"context"
	"log/slog"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/osqvisor/osqvisor/instance/osquerydtest"
	"github.com/osqvisor/osqvisor/internal/testhelp"
	"github.com/osqvisor/osqvisor/runtime"
)

func TestMain(m *testing.M) {
	osquerydtest.Main()
	os.Exit(m.Run())
}

// osqueryd is what a test runs on.
type osqueryd struct {
	path string
	fake *osquerydtest.Fake // nil when it is a real one
}

// fast is a fake that waits a twentieth of what osqueryd does.
var fast = osquerydtest.Script{TimeScale: 0.05}

func fakeWith(t *testing.T, rules ...osquerydtest.Rule) osqueryd {
	t.Helper()
	script := fast
	script.Rules = rules
	f := osquerydtest.Start(t, osquerydtest.WithScript(script))
	return osqueryd{f.Path(), f}
}

// each runs a test on the fake and, when OSQUERYD names one, on a real osqueryd;
// nothing may be left afterwards.
func each(t *testing.T, test func(t *testing.T, d osqueryd)) {
	t.Helper()
	t.Run("fake", func(t *testing.T) {
		testhelp.CheckLeaks(t)
		test(t, fakeWith(t))
	})
	if real := os.Getenv("OSQUERYD"); real != "" {
		t.Run("real", func(t *testing.T) {
			testhelp.CheckLeaks(t)
			test(t, osqueryd{path: real})
		})
	}
}

// host is a Runner and what a test wants to know of it.
type host struct {
	*runtime.Runner
	root   string
	events *testhelp.Events
	stop   func() // ends Run, and waits for it
}

// newHost makes a Runner that does not run yet.
func newHost(t *testing.T, d osqueryd, opts ...runtime.Option) *host {
	t.Helper()
	return newHostAt(t, d, testhelp.Root(t), opts...)
}

// newHostAt makes one in a root that exists.
func newHostAt(t *testing.T, d osqueryd, root string, opts ...runtime.Option) *host {
	t.Helper()
	h := &host{root: root, events: testhelp.NewEvents()}
	opts = append([]runtime.Option{
		runtime.WithBinary(d.path), runtime.WithRoot(h.root), runtime.WithObserver(h.events), runtime.WithLogger(logger(t)),
	}, opts...)
	r, err := runtime.New(opts...)
	if err != nil {
		t.Fatal(err)
	}
	h.Runner = r
	return h
}

// run runs it until stop is called or the test ends.
func (h *host) run(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	h.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run returned %v after a requested stop, want nil", err)
			}
		case <-time.After(testhelp.Patience):
			t.Error("Run did not return")
		}
	})
	t.Cleanup(h.stop)
}

func (h *host) ready(t *testing.T, ids ...string) {
	t.Helper()
	for _, id := range ids {
		if err := h.WaitReady(testhelp.Context(t), id); err != nil {
			t.Fatal(err)
		}
	}
}

// pid gives the process that was started for an instance.
func (h *host) pid(t *testing.T, id string) int {
	t.Helper()
	in, err := h.Instance(id)
	if err != nil {
		t.Fatal(err)
	}
	return in.PID()
}

// worker gives the pid that osqueryd tells.
func (h *host) worker(t *testing.T, id string) int {
	t.Helper()
	rows, err := h.Query(testhelp.Context(t), id, "select pid from osquery_info")
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(rows.Row(0).Get("pid"))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// answers fails the test unless the instances answer queries.
func (h *host) answers(t *testing.T, ids ...string) {
	t.Helper()
	for _, id := range ids {
		ctx, cancel := context.WithTimeout(testhelp.Context(t), 20*time.Second)
		rows, err := h.Query(ctx, id, "select 1")
		cancel()
		if err != nil || rows.Len() != 1 {
			t.Errorf("%s does not answer: %d rows, %v", id, rows.Len(), err)
		}
	}
}

func kill(t *testing.T, pid int) {
	t.Helper()
	p, err := os.FindProcess(pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
}

func logger(t *testing.T) *slog.Logger {
	t.Helper()
	if os.Getenv("OSQVISOR_TEST_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}
