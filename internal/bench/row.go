package bench

import (
	"context"
	"fmt"
)

// Who is whose way of doing the work a sample is of.
type Who int

// Ours is this SDK, Plain is osquery-go as its README shows it, Floor is what the
// work takes without either, and Other is a yardstick that a goal names.
const (
	Ours Who = iota
	Plain
	Floor
	Other
	whos // their number
)

// Sample is one measurement.
type Sample struct {
	Row   int // index in the group's rows
	Who   Who
	Value float64 // in the row's unit
}

// Step takes one or more samples. It leaves things as it found them.
type Step func(ctx context.Context) ([]Sample, error)

// Job is a group that is set up. Close, if it is not nil, releases what it holds.
type Job struct {
	Steps []Step
	Close func()
}

// Group is a set of rows that are measured together.
type Group struct {
	Name string
	Rows []Row
	// Slow groups are left out of a quick run.
	Slow bool
	// Fake groups are measured on the fake osqueryd, whichever is asked for.
	Fake bool
	// Disk groups are measured on the disk, others in memory where there is such a place.
	Disk bool
	// Rounds bounds how often the steps are repeated; 0 means as often as asked for.
	Rounds int
	Open   func(ctx context.Context, env *Env) (*Job, error)
}

// Row is one line of the table.
type Row struct {
	Work string
	Unit string
	Goal Goal
}

// Kind says how a goal compares.
type Kind int

// The kinds of goals: none; a number that ours may not exceed; a multiple of a
// yardstick that it may not exceed, or must reach; and by how much it may exceed it.
const (
	NoGoal Kind = iota
	AtMost
	AtMostTimes
	AtLeastTimes
	AtMostMore
)

// Goal is what a row has to reach.
type Goal struct {
	Kind  Kind
	Bound float64
	Of    Who    // the yardstick
	Name  string // of the yardstick, when it is Other
}

// text says the goal, with the yardstick's value where no column shows it.
func (g Goal) text(v values) string {
	of := map[Who]string{Floor: "floor", Plain: "plain", Other: fmt.Sprintf("%s (%s)", g.Name, number(v.of(Other)))}[g.Of]
	switch g.Kind {
	case AtMost:
		return "<= " + number(g.Bound)
	case AtMostTimes:
		return fmt.Sprintf("<= %s x %s", number(g.Bound), of)
	case AtLeastTimes:
		return fmt.Sprintf(">= %s x %s", number(g.Bound), of)
	case AtMostMore:
		return fmt.Sprintf("<= %s + %s", of, number(g.Bound))
	default:
		return ""
	}
}

// met says whether the goal is reached; without a goal it is.
func (g Goal) met(v values) bool {
	ours, of := v.of(Ours), v.of(g.Of)
	switch g.Kind {
	case AtMost:
		return ours <= g.Bound
	case AtMostTimes:
		return ours <= g.Bound*of
	case AtLeastTimes:
		return ours >= g.Bound*of
	case AtMostMore:
		return v.more(g.Of) <= g.Bound
	default:
		return true
	}
}
