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
			go e.deliverAll()
		}
	}()
	for {
		it, base, round, ok := e.next()
		if !ok {
			done = true
			return
		}
		e.deliver(base, it, round)
	}
}

func (e *Emitter) deliver(base context.Context, it item, round uint64) {
	for i, o := range e.list() {
		if it.report && i == it.skip {
			continue
		}
		if e.stale(round) {
			e.drop()
			return
		}
		e.call(base, i, o, it)
	}
}

// call recovers a panic of the observer.
func (e *Emitter) call(base context.Context, i int, o stats.Observer, it item) {
	ctx := &callContext{Context: base, values: it.values, emitter: e}
	ctx.running.Store(true)
	defer ctx.running.Store(false)
	defer func() {
		if v := recover(); v != nil {
			e.panicked(i, it, v)
		}
	}()
	o.Observe(ctx, it.event)
}

// record calls the first observer, which is ours, and recovers a panic of it: it
// prints errors that the host's code made.
func (e *Emitter) record(ctx context.Context, ev stats.Event) {
	if e.first == nil {
		return
	}
	defer func() {
		if v := recover(); v != nil {
			e.recordPanicked(ctx, ev, v)
		}
	}()
	e.first.Observe(ctx, ev)
}

func (e *Emitter) recordPanicked(ctx context.Context, ev stats.Event, v any) {
	e.mu.Lock()
	e.panics++
	e.mu.Unlock()
	if _, again := ev.(stats.PanicCaught); again {
		return
	}
	head := ev.Meta()
	head.Time = time.Now()
	e.Emit(ctx, stats.PanicCaught{Head: head, Where: "observer", Value: textOf(v), Stack: string(debug.Stack())})
}

// panicked counts a panic, and reports it to the other observers. A panic over
// a report is not reported: two observers could go on like that for ever.
func (e *Emitter) panicked(i int, it item, v any) {
	head := it.event.Meta()
	head.Time = time.Now()
	report := stats.PanicCaught{Head: head, Where: "observer", Value: textOf(v), Stack: string(debug.Stack())}
	if e.bookPanic(i, it, report) {
		e.record(it.values, report)
	}
}

// bookPanic queues the report, if there is to be one.
func (e *Emitter) bookPanic(i int, it item, report stats.Event) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.panics++
	if it.report || e.abandoned {
		return false
	}
	e.pushNext(item{number: it.number, values: it.values, event: report, report: true, skip: i})
	return true
}

func (e *Emitter) drop() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.dropped++
}

// textOf prints the value of a panic. fmt recovers the panics of its methods.
func textOf(v any) string {
	s := fmt.Sprint(v)
	if len(s) > maxValue {
		s = strings.ToValidUTF8(s[:maxValue], "")
	}
	return s
}

// callContext is the context of a call of an observer: it ends with the emitter's, and has
// the values of the one that the event was emitted with, and no deadline.
type callContext struct {
	context.Context
	values  context.Context
	emitter *Emitter
	running atomic.Bool // the observer has not returned
}

// callKey finds the callContext of an emitter above a context.
type callKey struct{ emitter *Emitter }

// Value returns the callContext itself for its key, or the value of who emitted.
func (c *callContext) Value(key any) any {
	if k, ok := key.(callKey); ok && k.emitter == c.emitter {
		return c
	}
	return c.values.Value(key)
}

// insideOf reports whether ctx is that of a call of an observer by e that has not
// returned.
func insideOf(ctx context.Context, e *Emitter) bool {
	c, ok := ctx.Value(callKey{e}).(*callContext)
	return ok && c.running.Load()
}
