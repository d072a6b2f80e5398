package instance

import "time"

// WithClock sets the clock by which a sleep of the machine is noticed: it returns a time that
// goes on while the machine sleeps, and running time, which stands still meanwhile. The first
// must not follow the wall clock, which may be set. It is for tests;
// without it the system's two clocks are read.
// It is called before and after every health check, by one goroutine, and must not block.
func WithClock(now func() (always time.Time, running time.Duration)) Option {
	return func(o *options) {
		if now == nil {
			o.problem(optionErrorf("WithClock", "the clock is nil; leave the option out for the system's"))
			return
		}
		o.clock = now
	}
}
