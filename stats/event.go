package stats

import (
	"context"
	"time"
)

// Observer receives every event of an instance, one after the other, in order; events of
// different instances may arrive at the same time.
//
// Observe may read snapshots, which are never behind the event, run queries, and call any
// method of the Runner that does not wait for the same instance to stop. An observer that
// blocks delays the instance's other observers only: up to 4096 events wait for it, then the
// oldest are dropped. A panic in it is recovered and reported to the others as [PanicCaught].
//
// The end of a run waits for observers for a bounded time, instance.Timeouts.Observers; then
// the context, which has no deadline, ends and Observe has to return.
type Observer interface {
	Observe(ctx context.Context, e Event)
}

// ObserverFunc is a function as an [Observer]. A nil one does nothing.
type ObserverFunc func(ctx context.Context, e Event)

// Observe calls f.
func (f ObserverFunc) Observe(ctx context.Context, e Event) {
	if f != nil {
		f(ctx, e)
	}
}

// Event is something that happened to an instance: a value such as RunReady, never a
// pointer, which must not be changed. The set of types is closed; a minor version may add
// types and fields, so a type switch needs a default case.
type Event interface {
	// Meta returns the fields that all events have.
	Meta() Head
	// Kind returns the words of the type's name in lower case, such as "run ready".
	Kind() string
	// MarshalJSON returns one object: "kind", "time", "instance", "run", and the event's own
	// fields in snake case. An Err is its text, "error"; durations are nanoseconds, named
	// "…_ns". Empty texts, lists and errors are left out.
	MarshalJSON() ([]byte, error)

	// sealed keeps types of other packages out, so that adding a method here
	// breaks nobody.
	sealed()
}

// Head is what all events have in common.
type Head struct {
	// Time is when it happened.
	Time time.Time
	// Instance is the id of the instance.
	Instance string
	// Run is the id of the run, or empty when the event is outside a run.
	Run string
}

// Meta returns h.
func (h Head) Meta() Head { return h }

func (Head) sealed() {}

// Multi returns an Observer that calls several, in order; nil ones are skipped. When one
// panics, those after it still receive the event, and then the panic goes on.
func Multi(obs ...Observer) Observer {
	m := make(multi, 0, len(obs))
	for _, o := range obs {
		if o != nil {
			m = append(m, o)
		}
	}
	return m
}

type multi []Observer

// Observe is recursive because a deferred call is what runs in spite of a panic
// and leaves its stack as it was.
func (m multi) Observe(ctx context.Context, e Event) {
	if len(m) == 0 {
		return
	}
	defer m[1:].Observe(ctx, e)
	m[0].Observe(ctx, e)
}
