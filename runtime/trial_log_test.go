package runtime_test

import (
	"context"
	"log/slog"
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
