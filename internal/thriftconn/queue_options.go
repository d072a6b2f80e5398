package thriftconn

import "time"

// Defaults of a QueryQueue.
const (
	DefaultDrainGrace = 5 * time.Second
	DefaultDrainTime  = 5 * time.Minute
	DefaultDrainCount = 4
	DefaultPatience   = 30 * time.Second
)

// QueueOption changes how a QueryQueue behaves.
type QueueOption func(*queueOptions)

type queueOptions struct {
	grace    time.Duration
	drain    time.Duration
	drains   int
	patience time.Duration
}

func defaultQueueOptions() queueOptions {
	return queueOptions{
		grace:    DefaultDrainGrace,
		drain:    DefaultDrainTime,
		drains:   DefaultDrainCount,
		patience: DefaultPatience,
	}
}

// WithDrainGrace sets how long after a query was abandoned others wait for
// osqueryd to finish it, before they run beside it on a connection of their
// own. The default is DefaultDrainGrace; 0 or less means not at all.
func WithDrainGrace(d time.Duration) QueueOption {
	return func(o *queueOptions) { o.grace = d }
}

// WithDrainLimit sets for how long the answer to an abandoned query is awaited
// (0 or less: DefaultDrainTime), and for how many at a time (0 or less:
// DefaultDrainCount). Beyond that the oldest connection is closed; osqueryd
// finishes its query all the same.
func WithDrainLimit(d time.Duration, count int) QueueOption {
	return func(o *queueOptions) {
		o.drain, o.drains = d, count
		if d <= 0 {
			o.drain = DefaultDrainTime
		}
		if count <= 0 {
			o.drains = DefaultDrainCount
		}
	}
}

// WithPatience sets for how long osqueryd may be unreachable (suspended, or
// refusing connections) before queries fail with ErrUnavailable. The default
// is DefaultPatience; 0 or less means that one failure is enough.
func WithPatience(d time.Duration) QueueOption {
	return func(o *queueOptions) { o.patience = d }
}
