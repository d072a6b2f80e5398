package emit

import (
	"context"
	"fmt"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"github.com/osqvisor/osqvisor/stats"
)

// maxValue bounds, in bytes, what is kept of the value of a panic.
const maxValue = 1024

// deliverAll delivers until the queue is empty.
func (e *Emitter) deliverAll() {
	done := false
	defer func() {
		if !done { // an observer ended this goroutine with runtime.Goexit
			e.giveUp()
		}
	}()
	for {
		it, ok := e.next()
		if !ok {
			done = true
			return
		}
		e.deliver(it)
	}
}

// giveUp lets the next caller of Emit deliver what is still queued. A Close that
// waits gets what it waits for, as nobody may come.
func (e *Emitter) giveUp() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		e.discard()
	}
	left := e.queue
	e.rest()
	e.queue = left
}

func (e *Emitter) deliver(it item) {
	for i, o := range e.observers {
		if it.report && i == it.skip {
			continue
		}
		if e.isAbandoned() {
			e.drop()
			return
		}
		e.call(i, o, it)
	}
}

// call contains a panic of the observer.
func (e *Emitter) call(i int, o stats.Observer, it item) {
	ctx := &callContext{Context: e.base, values: it.values, emitter: e}
	ctx.running.Store(true)
	defer ctx.running.Store(false)
	defer func() {
		if v := recover(); v != nil {
			e.panicked(i, it, v)
		}
	}()
	o.Observe(ctx, it.event)
}

// panicked counts a panic, and reports it to the other observers. A panic over
// a report is not reported: two observers could go on like that for ever.
func (e *Emitter) panicked(i int, it item, v any) {
	head := it.event.Meta()
	head.Time = time.Now()
	value := textOf(v)
	stack := string(debug.Stack())
	e.mu.Lock()
	defer e.mu.Unlock()
	e.panics++
	if it.report || e.abandoned {
		return
	}
	e.push(item{
		values: it.values,
		event:  stats.PanicCaught{Head: head, Where: "observer", Value: value, Stack: stack},
		report: true,
		skip:   i,
	})
}

func (e *Emitter) drop() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.dropped++
}

// textOf prints the value of a panic. fmt contains the panics of its methods.
func textOf(v any) string {
	s := fmt.Sprint(v)
	if len(s) > maxValue {
		s = strings.ToValidUTF8(s[:maxValue], "")
	}
	return s
}

// callContext is what an observer is handed: the end of the emitter's context,
// the values of the one that the event was emitted with, and no deadline.
type callContext struct {
	context.Context
	values  context.Context
	emitter *Emitter
	running atomic.Bool // the observer has not returned
}

// callKey asks a context for the callContext of an emitter above it.
type callKey struct{ emitter *Emitter }

// Deadline gives none, whatever the emitter's context has.
func (*callContext) Deadline() (time.Time, bool) { return time.Time{}, false }

// Value answers for itself, then for who emitted, then for the emitter.
func (c *callContext) Value(key any) any {
	if k, ok := key.(callKey); ok && k.emitter == c.emitter {
		return c
	}
	if v := c.values.Value(key); v != nil {
		return v
	}
	return c.Context.Value(key)
}

// insideOf says that ctx was handed to an observer by e, in a call that has not
// returned.
func insideOf(ctx context.Context, e *Emitter) bool {
	c, ok := ctx.Value(callKey{e}).(*callContext)
	return ok && c.running.Load()
}
