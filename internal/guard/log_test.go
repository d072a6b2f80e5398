package guard

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/slogtest"
	"testing/synctest"
	"time"
)

// handler is a host's, which does before each record what a test wants.
type handler struct {
	slog.Handler
	before func(r slog.Record)
}

func (h *handler) Handle(ctx context.Context, r slog.Record) error {
	h.before(r)
	return h.Handler.Handle(ctx, r)
}

func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &handler{h.Handler.WithAttrs(attrs), h.before}
}

// newLog is a contained logger and what was written by it.
func newLog(before func(r slog.Record)) (*slog.Logger, *text) {
	out := &text{}
	l, _ := Logger(slog.New(&handler{slog.NewTextHandler(out, nil), before}))
	return l, out
}

type text struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (w *text) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.Write(p)
}

func (w *text) messages() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []string
	for line := range strings.Lines(w.b.String()) {
		_, rest, _ := strings.Cut(line, "msg=")
		out = append(out, strings.TrimSpace(rest))
	}
	return out
}

func wantMessages(t *testing.T, out *text, want ...string) {
	t.Helper()
	if got := out.messages(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("written: %q, want %q", got, want)
	}
}

func TestContainedHandlerWritesAsBefore(t *testing.T) {
	var out bytes.Buffer
	l, fresh := Logger(slog.New(slog.NewTextHandler(&out, nil)))
	if again, second := Logger(l.With("a", 1)); !fresh || second || again.Handler() == nil {
		t.Error("what was contained is contained once more")
	}
	if l.Enabled(t.Context(), slog.LevelDebug) || !l.Enabled(t.Context(), slog.LevelInfo) {
		t.Error("the levels are not the handler's")
	}
	l.With("a", 1).WithGroup("g").With("b", 2).Info("one", "c", 3)
	if got := out.String(); !strings.HasSuffix(got, "level=INFO msg=one a=1 g.b=2 g.c=3\n") {
		t.Errorf("written when the call returned: %q", got)
	}
	if l, fresh := Logger(slog.New(slog.DiscardHandler)); fresh || l.Handler() != slog.DiscardHandler {
		t.Error("a logger that discards is contained")
	}
}

func TestContainedHandlerConforms(t *testing.T) {
	var out bytes.Buffer
	slogtest.Run(t, func(*testing.T) slog.Handler {
		out.Reset()
		l, _ := Logger(slog.New(slog.NewTextHandler(&out, nil)))
		return l.Handler()
	}, func(t *testing.T) map[string]any { return parsed(t, out.String()) })
}

// parsed reads a line of a TextHandler.
func parsed(t *testing.T, line string) map[string]any {
	t.Helper()
	top := map[string]any{}
	for _, kv := range strings.Fields(line) {
		key, value, _ := strings.Cut(kv, "=")
		m := top
		parts := strings.Split(key, ".")
		for _, p := range parts[:len(parts)-1] {
			if m[p] == nil {
				m[p] = map[string]any{}
			}
			m = m[p].(map[string]any)
		}
		m[parts[len(parts)-1]] = value
	}
	return top
}

const lostText = `"log records were lost: the log handler panicked, or was too slow"`

func TestTrial18HandlerThatBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		l, out := newLog(func(slog.Record) { <-release })
		began := time.Now()
		var want []string
		for i := range LogCapacity + 10 {
			l.With("n", i).Info("r")
		}
		SettleLog(l, time.Hour)
		if took := time.Since(began); took > LogPatience+LogSettle {
			t.Errorf("a handler that blocks held who logs up for %v", took)
		}
		SettleLog(l, time.Hour)
		l.Info("meanwhile")
		if took := time.Since(began); took > LogPatience+LogSettle {
			t.Errorf("once it was given up it held up for %v more", took-LogPatience-LogSettle)
		}
		close(release)
		synctest.Wait()
		want = append(want, "r n=0", "meanwhile", lostText+fmt.Sprint(" records=", LogCapacity+9))
		wantMessages(t, out, want...)
		l.Info("after")
		wantMessages(t, out, append(want, "after")...)
	})
}

func TestTrial18SlowHandlerKeepsTheOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, out := newLog(func(slog.Record) { <-time.After(2 * LogPatience) })
		var want []string
		for i := range 10 {
			l.Info("r", "n", i)
			want = append(want, fmt.Sprint("r n=", i))
		}
		SettleLog(l, time.Hour) // a second, in which five are written
		<-time.After(time.Minute)
		wantMessages(t, out, append(want[:6], // with the one that was under way
			lostText+" records=4")...)
	})
}

func TestTrial18HandlerThatPanics(t *testing.T) {
	l, out := newLog(func(r slog.Record) {
		switch r.Message {
		case "bad":
			panic("boom")
		case "worse":
			runtime.Goexit()
		}
	})
	l.Info("bad")
	l.Info("worse")
	l.Info("bad")
	l.Info("good")
	SettleLog(l, time.Minute)
	wantMessages(t, out, "good", lostText+" records=2 panic=boom")
}

// derived panics where a host's handler adds attributes.
type derived struct{ slog.Handler }

func (derived) WithAttrs([]slog.Attr) slog.Handler           { panic("no") }
func (derived) WithGroup(string) slog.Handler                { select {} }
func (derived) Enabled(_ context.Context, l slog.Level) bool { return l > slog.LevelInfo }
func (derived) Handle(context.Context, slog.Record) error    { return nil }

func TestTrial18HandlerThatCannotDerive(t *testing.T) {
	l, _ := Logger(slog.New(derived{}))
	l.With("a", 1).Warn("it is contained")
	began := time.Now()
	l.WithGroup("g").Warn("so is this")
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
}

// A handler that logs by the logger that it serves must not wait for itself.
func TestTrial18HandlerThatLogs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l *slog.Logger
		l, out := newLog(func(r slog.Record) {
			if r.Message == "outer" {
				l.Info("inner")
			}
		})
		l.Info("outer")
		synctest.Wait()
		wantMessages(t, out, "outer", "inner")
	})
}
