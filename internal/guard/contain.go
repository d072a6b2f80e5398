package guard

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/osqvisor/osqvisor/stats"
)

// PanicError is a panic of the host's code, as an error.
type PanicError struct {
	where string
	value string
	stack string
}

func (p *PanicError) Error() string { return p.where + " panicked: " + p.value }

// Contain runs f, which calls code of the host, and returns a panic in it as an
// error. where names the code.
func Contain(where string, f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = &PanicError{where: where, value: fmt.Sprint(r), stack: string(debug.Stack())}
		}
	}()
	return f()
}

// Announcer hands events to the host. It is safe for concurrent use.
type Announcer struct {
	Emit func(stats.Event)
	Head func() stats.Head
	Warn func(msg string, args ...any)
}

// Announce hands over one event. A panic in the host's hook is only logged: there is
// nobody left to report it to.
func (a *Announcer) Announce(event func(stats.Head) stats.Event) {
	err := Contain("event hook", func() error {
		a.Emit(event(a.Head()))
		return nil
	})
	if err != nil {
		a.Warn("an event was lost", "error", err)
	}
}

// AnnouncePanic announces err if it is a panic.
func (a *Announcer) AnnouncePanic(err error) {
	var p *PanicError
	if !errors.As(err, &p) {
		return
	}
	a.Announce(func(h stats.Head) stats.Event {
		return stats.PanicCaught{Head: h, Where: p.where, Value: p.value, Stack: p.stack}
	})
}

// Contain runs f and announces a panic in it.
func (a *Announcer) Contain(where string, f func() error) error {
	err := Contain(where, f)
	a.AnnouncePanic(err)
	return err
}

// ErrNotReturned means that a call of the host's code outlived its context.
var ErrNotReturned = errors.New("it did not return when its context ended")

// ReturnGrace is how long a call may take to return after its context ended.
const ReturnGrace = 500 * time.Millisecond

// Slot lets one call at a time through, under a context.
type Slot chan struct{}

// NewSlot returns a slot that is free.
func NewSlot() Slot { return make(Slot, 1) }

// Take waits for the slot, until ctx ends.
func (s Slot) Take(ctx context.Context) error {
	select {
	case s <- struct{}{}:
		return nil
	default:
	}
	select {
	case s <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Free returns the slot back.
func (s Slot) Free() { <-s }

// outcome is what a contained call returned.
type outcome[T any] struct {
	value T
	err   error
}

// Bounded runs f in a goroutine of its own, so that code of the host that
// ignores its context holds up nobody. where names it. busy is held until f
// really returned: a call that hangs is never made a second time beside itself.
func Bounded[T any](ctx context.Context, t *Tasks, busy Slot, where string, f func(context.Context) (T, error)) (T, error) {
	var none T
	if err := busy.Take(ctx); err != nil {
		return none, fmt.Errorf("%s: an earlier call is still under way: %w", where, err)
	}
	done := make(chan outcome[T], 1)
	t.Go(func() {
		defer busy.Free()
		var o outcome[T]
		o.err = Contain(where, func() (err error) {
			o.value, err = f(ctx)
			return err
		})
		done <- o
	})
	select {
	case o := <-done:
		return o.value, o.err
	case <-ctx.Done():
	}
	grace := time.NewTimer(ReturnGrace)
	defer grace.Stop()
	select {
	case o := <-done:
		return o.value, o.err
	case <-grace.C:
		return none, fmt.Errorf("%s: %w: %w", where, ErrNotReturned, ctx.Err())
	}
}

// Tasks counts goroutines, so that whoever started them can wait for them under
// a context. The zero value is ready.
type Tasks struct {
	mu   sync.Mutex
	n    int
	idle chan struct{} // closed when n falls to 0; nil while nobody waits
}

// Go runs f in a goroutine that wait knows.
func (t *Tasks) Go(f func()) {
	t.mu.Lock()
	t.n++
	t.mu.Unlock()
	go func() {
		defer t.end()
		f()
	}()
}

func (t *Tasks) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.n--
	if t.n == 0 && t.idle != nil {
		close(t.idle)
		t.idle = nil
	}
}

// Wait returns true when no goroutine is left, and false when ctx ended before.
func (t *Tasks) Wait(ctx context.Context) bool {
	t.mu.Lock()
	if t.n == 0 {
		t.mu.Unlock()
		return true
	}
	if t.idle == nil {
		t.idle = make(chan struct{})
	}
	idle := t.idle
	t.mu.Unlock()
	select {
	case <-idle:
		return true
	case <-ctx.Done():
		return false
	}
}
