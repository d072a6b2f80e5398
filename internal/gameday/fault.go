package gameday

import (
	"context"
	"slices"
	"strings"

	"github.com/osqvisor/osqvisor/stats"
)

// fault is one way in which things go wrong, and what the SDK has to make of it.
type fault struct {
	name string
	// inject does it to the strike's victim. It may leave evidence of its own.
	inject func(ctx context.Context, s *strike) error
	// notice holds kinds of events: one of them must say that it was noticed. Without
	// any, the evidence that inject left is what counts.
	notice []string
	// sees tells the noticing event from others of its kind; nil takes each.
	sees func(s *strike, e stats.Event) bool
	// causes holds what a run of the victim must end with; with none, no run may end.
	causes []stats.Cause
	// also holds causes that are not to be wondered at, because inject itself ends runs.
	also []stats.Cause
	// mend is what an administrator would do once it is known. Most need none.
	mend func(ctx context.Context, s *strike) error
	// settle holds kinds of events: one must come before the victim counts as recovered.
	settle []string

	// fakeOnly says why it cannot be done to a real osqueryd; empty when it can.
	fakeOnly string
	// impossible says why it cannot be done here at all; nil when it always can.
	impossible func(w *world) string
	// onFull wants the instance whose directory is a small file system of its own.
	onFull bool
	// slow faults take a minute on a real osqueryd, and are not repeated at random.
	slow bool
}

func (f fault) named(only string) bool { return strings.Contains(f.name, only) }

// catalogue is every fault, in the order in which they are injected.
func catalogue() []fault {
	return slices.Concat(
		killFaults(), exitFaults(), socketFaults(), protocolFaults(),
		watchdogFaults(), fileFaults(), binaryFaults(), hostFaults(), machineFaults(),
	)
}

// Why some cannot be done to a real osqueryd.
const (
	noScript  = "a real osqueryd cannot be told to"
	noWindows = "this system has no such signal"
)

// anyOf is a list of causes.
func anyOf(causes ...stats.Cause) []stats.Cause { return causes }

// kinds are the names of events.
func kinds(events ...stats.Event) []string {
	var out []string
	for _, e := range events {
		out = append(out, e.Kind())
	}
	return out
}
