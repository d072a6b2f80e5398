package runtime

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/stats"
)

// RestartPolicy says when an instance whose run ended unasked is started again. By
// default none is given up for good. The zero value of a field stands for its default.
//
// The first failure after a run that was ready is followed by a new start at once;
// further ones, and those before ready, by waits that grow.
type RestartPolicy struct {
	// Initial is the first wait that is not zero. Default 1 s.
	Initial time.Duration
	// Max bounds the waits. Default 5 min.
	Max time.Duration
	// Multiplier is by how much a wait is longer than the one before. Default 2.
	Multiplier float64
	// Jitter spreads each wait by up to that part of it, up and down, from 0 to 1.
	// Default 0.2. A negative value means none.
	Jitter float64
	// HealthyAfter is how long an osqueryd that was ready has to live for the waits to
	// start over.
	// Default 1 min.
	HealthyAfter time.Duration
	// Budget is how many failures within Window park the instance. Default 10;
	// a negative value means that nothing but a cause parks it.
	Budget int
	// Window is how long a failure counts. Default 10 min.
	Window time.Duration
	// ParkFor is after how long a parked instance is started again, up to Jitter more.
	// Default 15 min; a negative value means that only the host, by Resume, Restart or
	// Update, brings it back. Otherwise it also comes back at once when the binary has
	// changed, or a disk that was full has room again; both are looked at every second.
	ParkFor time.Duration
	// Causes overrides what certain causes lead to. A cause that is not in it has
	// its default, see DefaultCausePolicy.
	Causes map[stats.Cause]CausePolicy
}

// CausePolicy is what a cause leads to, beside the ordinary waits.
type CausePolicy struct {
	// Park parks the instance at once, for RestartPolicy.ParkFor: starting again soon
	// cannot help.
	Park bool
	// MinDelay is the shortest wait before the next start.
	MinDelay time.Duration
	// Unlimited failures of this cause do not use up the budget.
	Unlimited bool
}

// DefaultCausePolicy returns what a cause leads to unless RestartPolicy.Causes overrides it.
func DefaultCausePolicy(c stats.Cause) CausePolicy { return defaultCausePolicies()[c] }

// defaultCausePolicies has an entry for every cause but CauseRequested, after which nothing is
// started again.
func defaultCausePolicies() map[stats.Cause]CausePolicy {
	ordinary := CausePolicy{}
	hopeless := CausePolicy{Park: true}
	fromOutside := CausePolicy{MinDelay: 5 * time.Second, Unlimited: true}
	return map[stats.Cause]CausePolicy{
		stats.CauseExit:            ordinary,
		stats.CauseSignal:          ordinary,
		stats.CauseStartTimeout:    ordinary,
		stats.CauseUnhealthy:       ordinary,
		stats.CauseOutOfMemory:     ordinary,
		stats.CauseDatabaseLocked:  fromOutside,
		stats.CauseDatabaseCorrupt: ordinary,
		stats.CausePidfileBusy:     fromOutside,
		stats.CausePluginMissing:   ordinary,
		stats.CauseLoggerFailed:    ordinary,
		stats.CauseFlagRefused:     hopeless,
		stats.CauseBinaryMissing:   hopeless,
		stats.CauseBinaryUnusable:  hopeless,
		stats.CauseBinaryBusy:      {MinDelay: time.Second, Unlimited: true},
		stats.CauseDirectory:       fromOutside,
		stats.CauseResources:       fromOutside,
		stats.CauseNoSocket:        ordinary,
		stats.CauseCrashLoop:       {MinDelay: time.Minute},
		stats.CauseLeftover:        fromOutside,
		stats.CausePanic:           ordinary,
		stats.CauseUnknown:         ordinary,
	}
}

func (p RestartPolicy) withDefaults() RestartPolicy {
	p.Initial = orDefault(p.Initial, time.Second)
	p.Max = orDefault(p.Max, 5*time.Minute)
	p.Multiplier = orDefault(p.Multiplier, 2)
	p.Jitter = orDefault(p.Jitter, 0.2)
	p.HealthyAfter = orDefault(p.HealthyAfter, time.Minute)
	p.Budget = orDefault(p.Budget, 10)
	p.Window = orDefault(p.Window, 10*time.Minute)
	p.ParkFor = orDefault(p.ParkFor, 15*time.Minute)
	return p
}

func orDefault[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

// check gives every mistake.
func (p RestartPolicy) check() []error {
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, &instance.OptionError{Option: "WithRestart", Err: fmt.Errorf(format, args...)})
	}
	for _, d := range []struct {
		name  string
		value time.Duration
	}{{"Initial", p.Initial}, {"Max", p.Max}, {"HealthyAfter", p.HealthyAfter}, {"Window", p.Window}} {
		if d.value < 0 {
			bad("%s is %v; a duration must not be negative", d.name, d.value)
		}
	}
	full := p.withDefaults()
	if full.Max >= 0 && full.Max < full.Initial {
		bad("Max (%v) is shorter than Initial (%v)", full.Max, full.Initial)
	}
	if !(full.Multiplier >= 1 && full.Multiplier <= maxMultiplier) { // NaN is neither
		bad("Multiplier is %v; it must be from 1 to %v, so that waits do not get shorter", p.Multiplier, maxMultiplier)
	}
	if !(p.Jitter <= 1) {
		bad("Jitter is %v; it must be at most 1", p.Jitter)
	}
	for _, c := range slices.Sorted(maps.Keys(p.Causes)) {
		if d := p.Causes[c].MinDelay; d < 0 {
			bad("Causes[%s].MinDelay is %v; a duration must not be negative", c, d)
		}
	}
	return errs
}

// maxMultiplier keeps the arithmetic of waits away from overflow.
const maxMultiplier = 1000.0

// of gives what a cause leads to.
func (p RestartPolicy) of(c stats.Cause) CausePolicy {
	if cp, ok := p.Causes[c]; ok {
		return cp
	}
	return DefaultCausePolicy(c)
}
