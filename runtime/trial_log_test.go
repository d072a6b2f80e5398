package runtime_test

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/internal/testhelp"
	"github.com/osqvisor/osqvisor/runtime"
	"github.com/osqvisor/osqvisor/stats"
)

// handlerFunc is a slog.Handler of a host's, all of whose methods do the same.
type handlerFunc func()

func (f handlerFunc) Enabled(context.Context, slog.Level) bool {
	f()
	return true
}

func (f handlerFunc) Handle(context.Context, slog.Record) error {
	f()
	return nil
}

func (f handlerFunc) WithAttrs([]slog.Attr) slog.Handler {
	f()
	return f
}

func (f handlerFunc) WithGroup(string) slog.Handler {
	f()
	return f
}

// survives runs two instances whose every log goes to a handler of the host's, restarts
// one, and wants Run back in good time.
func survives(t *testing.T, h slog.Handler) {
	t.Helper()
	log := slog.New(h)
	host := newHost(t, fakeWith(t), runtime.WithLogger(log),
		runtime.WithInstanceDefaults(instance.WithTimeouts(instance.Timeouts{Observers: time.Second})),
		runtime.WithInstance("vendor"),
		runtime.WithInstance("tenant", instance.WithLogger(log), instance.WithObserver(stats.LogTo(log))))
	host.run(t)
	host.ready(t, "vendor", "tenant")
	kill(t, host.pid(t, "vendor"))
	testhelp.WaitEvents[stats.RunReady](t, host.events, "vendor", 2)
	host.answers(t, "vendor", "tenant")
	began := time.Now()
	host.stop()
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("Run took %v to return", took)
	}
}

func TestTrial18LogHandlerThatBlocks(t *testing.T) {
	testhelp.CheckLeaks(t)
	release := make(chan struct{})
	defer close(release)
	survives(t, handlerFunc(func() { <-release }))
}

func TestPromise09LogHandlerThatPanics(t *testing.T) {
	testhelp.CheckLeaks(t)
	survives(t, handlerFunc(func() { panic("the host's log handler") }))
}

// records keeps what is logged, without osqueryd's own lines.
type records struct {
	mu   sync.Mutex
	text []string
}

func (r *records) Enabled(context.Context, slog.Level) bool { return true }

func (r *records) Handle(_ context.Context, rec slog.Record) error {
	own, text := true, rec.Level.String()+" "+rec.Message
	rec.Attrs(func(a slog.Attr) bool {
		own = own && a.Key != "source"
		text += " " + a.String()
		return true
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	if own {
		r.text = append(r.text, text)
	}
	return nil
}

func (r *records) WithAttrs([]slog.Attr) slog.Handler { return r }
func (r *records) WithGroup(string) slog.Handler      { return r }

// A crash stands in the log once, although the Runner, its instance and the observer that logs events have the same logger.
func TestACrashIsLoggedOnce(t *testing.T) {
	testhelp.CheckLeaks(t)
	var log records
	host := newHost(t, fakeWith(t), runtime.WithLogger(slog.New(&log)), runtime.WithObserver(stats.LogTo(slog.New(&log))),
		runtime.WithInstance("vendor"))
	host.run(t)
	host.ready(t, "vendor")
	kill(t, host.pid(t, "vendor"))
	testhelp.WaitEvents[stats.RunReady](t, host.events, "vendor", 2)
	host.stop()
	log.mu.Lock()
	defer log.mu.Unlock()
	var crash []string
	for _, text := range log.text {
		if !strings.HasPrefix(text, "DEBUG ") && (strings.Contains(text, "ended") || strings.Contains(text, "signal")) {
			crash = append(crash, text)
		}
	}
	for i, want := range []string{"ERROR run ended ", "WARN restart scheduled ", "INFO run ended "} {
		if len(crash) != 3 || !strings.HasPrefix(crash[i], want) {
			t.Fatalf("logged %q, want one end, one restart and the end on request", crash)
		}
	}
}
