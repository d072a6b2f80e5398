package instance

import "time"

// WithClock sets the clock by which a sleep of the machine is noticed: it gives wall time
// and running time, which stands still while the machine sleeps. It is for tests and for
// systems whose clocks the time package does not read; without it the system's are read.
// It is called before and after every health check, by one goroutine, and must not block.
func WithClock(now func() (wall time.Time, running time.Duration)) Option {
	return func(o *options) {
		if now == nil {
			o.problem(optionErrorf("WithClock", "the clock is nil; leave the option out for the system's"))
			return
		}
		o.clock = now
	}
}
