package testhelp

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/osqvisor/osqvisor/stats"
)

// Context returns a context that ends with the test, or after Patience.
func Context(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	t.Cleanup(cancel)
	return ctx
}

// Wait waits until ch is closed or has a value; what names it.
func Wait[T any](t testing.TB, what string, ch <-chan T) {
	t.Helper()
	timer := time.NewTimer(Patience)
	defer timer.Stop()
	select {
	case <-ch:
	case <-timer.C:
		t.Fatalf("waited in vain for %s", what)
	}
}

// Until polls until ok, for what has no event of its own; what names it.
func Until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	deadline := time.NewTimer(Patience)
	defer deadline.Stop()
	for !ok() {
		select {
		case <-ticker.C:
		case <-deadline.C:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// Root makes a temporary directory with a short path, since sockets live in it. It
// is removed at the end of the test.
func Root(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ov") // TempDir's paths are too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Events is an observer that keeps everything and lets tests wait. Make one with NewEvents.
type Events struct {
	mu      sync.Mutex
	all     []stats.Event
	changed chan struct{}
}

// NewEvents makes an Events.
func NewEvents() *Events { return &Events{changed: make(chan struct{})} }

// Observe keeps an event.
func (e *Events) Observe(_ context.Context, ev stats.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, ev)
	close(e.changed)
	e.changed = make(chan struct{})
}

// Len returns how many events there were so far.
func (e *Events) Len() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.all)
}

// EventsOf returns the events of type T of one instance, or of all for "", so far.
func EventsOf[T stats.Event](e *Events, id string) []T {
	e.mu.Lock()
	defer e.mu.Unlock()
	return ofType[T](e.all, id)
}

func ofType[T stats.Event](all []stats.Event, id string) []T {
	var out []T
	for _, ev := range all {
		if ev, ok := ev.(T); ok && (id == "" || ev.Meta().Instance == id) {
			out = append(out, ev)
		}
	}
	return out
}

// WaitEvents waits until there were n events of type T of an instance, and returns them.
func WaitEvents[T stats.Event](t testing.TB, e *Events, id string, n int) []T {
	t.Helper()
	ctx := Context(t)
	for {
		e.mu.Lock()
		got, changed := ofType[T](e.all, id), e.changed
		e.mu.Unlock()
		if len(got) >= n {
			return got
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatal(fmt.Errorf("%d events %T of %q, want %d: %w", len(got), *new(T), id, n, ctx.Err()))
		}
	}
}

// Equal fails the test when got is not want; what names them.
func Equal[T comparable](t testing.TB, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}
