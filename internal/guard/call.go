package guard

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// ErrHangs is wrapped with what ended the wait for something that does not return.
var ErrHangs = errors.New("it does not return")

// Within runs f, which may never return, and waits for it for at most d. Then f is left
// to itself.
func Within(d time.Duration, f func()) (returned bool) {
	var l Lane
	return Wait(l.Go(f), d)
}

// Wait reports whether done was closed within d.
func Wait(done <-chan struct{}, d time.Duration) bool {
	select {
	case <-done:
		return true
	default:
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}

// Call is Try in a lane of its own.
func Call(ctx context.Context, grace time.Duration, f func() error, undo func()) error {
	var l Lane
	return l.Try(ctx, grace, f, undo)
}

// Lane runs functions one after the other, by a goroutine that exists while there are
// some. Who waits for one can give up: the function is then left to itself, and the next ones
// still come after it. The zero value is ready for use.
type Lane struct {
	mu    sync.Mutex
	queue []*task
	busy  bool
}

// task is a function in a lane. Its fields are guarded by the lane's lock, but for err
// once done is closed.
type task struct {
	f, undo func()
	done    chan struct{}
	err     error
	given   bool // nobody waits for it
	waited  bool // by Try, which a panic goes on in
	panic   any
}

// Go runs f in its turn, come what may. The channel is closed when it has returned.
func (l *Lane) Go(f func()) <-chan struct{} {
	t := &task{f: f, done: make(chan struct{})}
	l.push(t)
	return t.done
}

// Try runs f in its turn and returns what it returns. When ctx ends before its turn, f is
// never run; when f is running then, it has as long as grace to return. Then it is left to
// itself, and should it succeed, undo, which may be nil, is run in the lane.
func (l *Lane) Try(ctx context.Context, grace time.Duration, f func() error, undo func()) error {
	t := &task{done: make(chan struct{}), undo: undo, waited: true}
	t.f = func() { t.err = f() }
	l.push(t)
	select {
	case <-t.done:
		return t.result()
	case <-ctx.Done():
	}
	if l.withdraw(t) {
		return context.Cause(ctx)
	}
	if Wait(t.done, grace) || !l.giveUp(t) {
		return t.result()
	}
	return fmt.Errorf("%w; %w", context.Cause(ctx), ErrHangs)
}

func (l *Lane) push(t *task) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.queue = append(l.queue, t)
	if !l.busy {
		l.busy = true
		go l.work() // it ends with the queue
	}
}

func (l *Lane) work() {
	for t := l.next(); t != nil; t = l.next() {
		t.run()
		if l.end(t) {
			t.undo()
		}
	}
}

// run keeps a panic for who waits.
func (t *task) run() {
	if t.waited {
		defer func() { t.panic = recover() }()
	}
	t.f()
}

func (t *task) result() error {
	if t.panic != nil {
		panic(t.panic)
	}
	return t.err
}

func (l *Lane) next() *task {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue) == 0 {
		l.busy, l.queue = false, nil
		return nil
	}
	t := l.queue[0]
	l.queue = l.queue[1:]
	return t
}

// end reports whether what was done is to be undone.
func (l *Lane) end(t *task) (undo bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(t.done)
	return t.given && t.err == nil && t.panic == nil && t.undo != nil
}

// withdraw takes a function out of the line, if its turn has not come.
func (l *Lane) withdraw(t *task) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, other := range l.queue {
		if other == t {
			l.queue = append(l.queue[:i:i], l.queue[i+1:]...)
			return true
		}
	}
	return false
}

// giveUp is false when it has returned in this moment.
func (l *Lane) giveUp(t *task) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-t.done:
		return false
	default:
		t.given = true
		return true
	}
}
