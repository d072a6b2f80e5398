package stats

import (
	"context"
	"time"
)

// Observer is handed every event of an instance.
//
// Observe is called for one event after the other of any one instance, in the
// order in which they happened, soon after they did; events of different
// instances may arrive at the same time. No lock is held and nothing waits during
// the call, so it may ask for snapshots, which are never behind the event, and
// queries, and may call any method of the Runner that does not wait for the same
// instance to stop (Add, Resume, Snapshots, Healthy). An observer that blocks
// holds up the instance's other observers only: events wait for it, a few
// thousand of them, then the oldest are dropped. A panic in it is caught, counted, and
// announced to the other observers as a [PanicCaught].
//
// The end of a run waits for the observers to take its events, for a bounded
// while. After that the context ends and an observer has to return. The context
// carries no deadline.
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

// Event is something that happened to an instance. The set of types is closed;
// new ones and new fields may be added in any minor version, so a type switch
// needs a default case. Events are passed as values: a switch names RunReady,
// not *RunReady. An event and what it refers to must not be changed.
type Event interface {
	// Meta gives the fields that all events have.
	Meta() Head
	// Kind is the event's stable name, such as "run ready".
	Kind() string

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

// Meta gives the fields that all events have.
func (h Head) Meta() Head { return h }

func (Head) sealed() {}
