package instance

import "time"

// Watchdog is how osqueryd contains itself. The zero value is osqueryd's own
// normal level: the worker may grow by 200 MB and use 10 % of all CPU threads for 12 s.
type Watchdog struct {
	// Disabled runs osqueryd as one process that nothing contains. Queries that
	// run when it dies are then not denylisted by distributed reads either.
	Disabled bool
	// Restrictive lowers osqueryd's own limits to 100 MB and 5 % for 6 s.
	Restrictive bool
	// MemoryMB overrides the limit of growth in MiB; 0 leaves it at the level's.
	MemoryMB int
	// CPUPercent overrides the limit of CPU in percent of all threads, 1 to 100;
	// 0 leaves it at the level's.
	CPUPercent int
	// CPUFor is how long that may last, in whole seconds; 0 leaves it at the level's.
	CPUFor time.Duration
	// Delay is the time after a worker's start in which limits do not count, in
	// whole seconds. 0 means osqueryd's 60 s.
	Delay time.Duration
}

// WithWatchdog sets osqueryd's limits on itself. The watchdog is on without it.
func WithWatchdog(w Watchdog) Option { return func(o *options) { o.watchdog = w } }

func (w Watchdog) check() []error {
	var errs []error
	bad := func(field, format string, args ...any) {
		errs = append(errs, optionErrorf("WithWatchdog: "+field, format, args...))
	}
	if w.MemoryMB < 0 || w.MemoryMB > 1<<20 {
		bad("MemoryMB", "%d is out of range; it must be from 0 to %d", w.MemoryMB, 1<<20)
	}
	if w.CPUPercent < 0 || w.CPUPercent > 100 {
		bad("CPUPercent", "%d is out of range; it must be from 0 to 100", w.CPUPercent)
	}
	for field, d := range map[string]time.Duration{"CPUFor": w.CPUFor, "Delay": w.Delay} {
		if d < 0 || d > day || d%time.Second != 0 {
			bad(field, "%v is out of range; it must be whole seconds from 0 to %v", d, day)
		}
	}
	if w.Disabled && w != (Watchdog{Disabled: true}) {
		bad("Disabled", "limits are set for a watchdog that is off; leave one of the two out")
	}
	return errs
}
