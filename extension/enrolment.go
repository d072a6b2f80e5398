package extension

import (
	"context"
	"time"
)

// Enrolment limits how often an instance enrols. A field that is zero stands for its
// default.
type Enrolment struct {
	// Interval is the least time from one enrolment to the next when the server refuses
	// keys soon after it issued them, as it does to two hosts that enrol as one node. It
	// doubles up to 16 times as much while that goes on. The first key that is refused
	// within an hour is replaced at once. From 1 s to 1 h; the default is 1 minute.
	Interval time.Duration
	// PerMinute is how many enrolments a minute the instance makes at most: a third of them at
	// once, the others evenly spread. The default is 15, which the instances of a runtime.Runner
	// share; servers limit enrolments by address, osctrl, for one, to 20 a minute.
	PerMinute int
}

// NodeKeyStore keeps an instance's node key. Calls come one at a time and must
// return when their context ends. The key is a secret.
type NodeKeyStore interface {
	// Load returns the key, and "" with a nil error when there is none.
	Load(ctx context.Context) (string, error)
	// Save keeps the key for the next start.
	Save(ctx context.Context, key string) error
}
