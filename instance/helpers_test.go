package instance_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/osquery/osquery-go/plugin/table"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/instance/osquerydtest"
	"github.com/osqvisor/osqvisor/stats"
)

// patience bounds every wait of a test; it is reached only by a defect.
const patience = 60 * time.Second

// fast is a fake that waits a twentieth of what osqueryd does.
var fast = osquerydtest.Script{TimeScale: 0.05}

func patient(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// each runs a test on the fake and, when OSQUERYD names one, on a real osqueryd.
func each(t *testing.T, test func(t *testing.T, binary string)) {
	t.Helper()
	t.Run("fake", func(t *testing.T) { test(t, osquerydtest.Start(t, osquerydtest.WithScript(fast)).Path()) })
	if real := os.Getenv("OSQUERYD"); real != "" {
		t.Run("real", func(t *testing.T) { test(t, real) })
	}
}

func testLogger(t testing.TB) *slog.Logger {
	t.Helper()
	if os.Getenv("OSQVISOR_TEST_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// events collects events and lets a test wait for one.
type events struct {
	ch chan stats.Event
}

func newEvents() *events { return &events{ch: make(chan stats.Event, 10_000)} }

func (e *events) Observe(_ context.Context, ev stats.Event) { e.ch <- ev }

// next waits for the next event of type T.
func next[T stats.Event](t testing.TB, e *events) T {
	t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		select {
		case ev := <-e.ch:
			if got, ok := ev.(T); ok {
				return got
			}
		case <-timer.C:
			var want T
			t.Fatalf("no event %T within %v", want, patience)
		}
	}
}

// running is an instance whose run a test ends.
type running struct {
	*instance.Instance
	events *events
	stop   context.CancelFunc
	done   chan error
}

// start runs an instance in the background and waits until it is ready.
func start(t *testing.T, binary string, opts ...instance.Option) *running {
	t.Helper()
	r := startUnready(t, binary, opts...)
	if err := r.WaitReady(patient(t)); err != nil {
		t.Fatal(err)
	}
	return r
}

func startUnready(t *testing.T, binary string, opts ...instance.Option) *running {
	t.Helper()
	r := &running{events: newEvents(), done: make(chan error, 1)}
	opts = append([]instance.Option{
		instance.WithBinary(binary), instance.WithRoot(root(t)),
		instance.WithObserver(r.events), instance.WithLogger(testLogger(t)),
	}, opts...)
	in, err := instance.New("vendor", opts...)
	if err != nil {
		t.Fatal(err)
	}
	r.Instance = in
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	go func() { r.done <- in.Run(ctx) }()
	t.Cleanup(func() { r.end(t) })
	return r
}

// end stops the run, if it still lives, and closes the instance.
func (r *running) end(t testing.TB) {
	t.Helper()
	r.stop()
	_ = r.wait(t)
	if err := r.Close(patient(t)); err != nil {
		t.Errorf("close: %v", err)
	}
}

// wait gives the run's result.
func (r *running) wait(t testing.TB) error {
	t.Helper()
	select {
	case err := <-r.done:
		r.done <- err
		return err
	case <-time.After(patience):
		t.Fatal("the run did not end")
		return nil
	}
}

// root is a short temporary directory: sockets live in it.
func root(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ov")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	dir, err = filepath.EvalSymlinks(dir)
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func realBinary() string { return os.Getenv("OSQUERYD") }

// slow is a table that answers when it is told to.
type slow struct{ started, proceed chan struct{} }

func newSlow() slow { return slow{make(chan struct{}), make(chan struct{})} }

func (s slow) table() extension.Table {
	return table.NewPlugin("slow", []table.ColumnDefinition{table.TextColumn("value")},
		func(ctx context.Context, _ table.QueryContext) ([]map[string]string, error) {
			s.started <- struct{}{}
			select {
			case <-s.proceed:
			case <-ctx.Done():
			}
			return nil, nil
		})
}
