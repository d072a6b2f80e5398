package runtime

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/internal/control"
	"github.com/osqvisor/osqvisor/stats"
)

// RestartPolicy sets when an instance whose run failed is restarted. A field that is zero has
// its default. The first failure of a run that was ready is followed by a new start at once;
// further ones, and failed starts, by growing waits.
type RestartPolicy struct {
	// Initial is the first wait that is not zero. Default 1 s.
	Initial time.Duration
	// Max bounds the waits. Default 5 min.
	Max time.Duration
	// Multiplier is the factor from one wait to the next. Default 2, from 1 to 1000.
	Multiplier float64
	// Jitter spreads each wait by up to this part of it. Default 0.2, up to 1; negative: none.
	Jitter float64
	// HealthyAfter is how long an osqueryd must live for the waits to start over. Default 1 min.
	HealthyAfter time.Duration
	// Budget is how many failures within Window park the instance. Default 10; negative: only
	// a cause parks it.
	Budget int
	// Window is how long a failure counts. Default 10 min.
	Window time.Duration
	// ParkFor is how long an instance stays parked, up to Jitter more, unless its binary changes
	// or a full disk has room again. Default 15 min; negative: until Resume, Restart or Update.
	ParkFor time.Duration
	// Causes overrides DefaultCausePolicy for some causes.
	Causes map[stats.Cause]CausePolicy
}

// CausePolicy is what a cause leads to.
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

// check returns every mistake.
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

// of returns what a cause leads to.
func (p RestartPolicy) of(c stats.Cause) CausePolicy {
	if cp, ok := p.Causes[c]; ok {
		return cp
	}
	return DefaultCausePolicy(c)
}

// ledger keeps the failures of one instance and decides what follows from the next
// one. It belongs to the goroutine that supervises the instance.
type ledger struct {
	policy   RestartPolicy
	waits    *backoff.ExponentialBackOff
	inARow   int
	failures []time.Time // within the window, oldest first
}

// failure is a run that ended unasked.
type failure struct {
	at     time.Time
	cause  stats.Cause
	ready  bool // the run had been ready
	lasted time.Duration
}

// verdict is what follows from a failure.
type verdict struct {
	park     bool
	delay    time.Duration // of the park, when there is one: 0 is for ever
	attempt  int           // failures in a row
	failures int           // within the window; 1 when the cause alone parks
}

func newLedger(p RestartPolicy) *ledger {
	p = p.withDefaults()
	waits := backoff.NewExponentialBackOff()
	waits.InitialInterval = p.Initial
	waits.MaxInterval = p.Max
	waits.Multiplier = p.Multiplier
	waits.RandomizationFactor = max(p.Jitter, 0)
	waits.MaxElapsedTime = 0 // the budget decides when to give up
	waits.Reset()
	return &ledger{policy: p, waits: waits}
}

// judge books a failure.
func (l *ledger) judge(f failure) verdict {
	cp := l.policy.of(f.cause)
	if f.ready && f.lasted >= l.policy.HealthyAfter {
		l.calm()
	}
	l.inARow++
	if !cp.Unlimited {
		l.failures = append(l.failures, f.at)
	}
	l.forget(f.at)
	v := verdict{attempt: l.inARow, failures: len(l.failures)}
	switch {
	case cp.Park:
		v.park, v.failures, v.delay = true, 1, l.parkFor()
		return v
	case l.policy.Budget > 0 && len(l.failures) >= l.policy.Budget:
		v.park, v.delay = true, l.parkFor()
		return v
	}
	v.delay = max(l.wait(f), cp.MinDelay)
	return v
}

// parkFor spreads the ends of parks, since many instances are parked at once.
func (l *ledger) parkFor() time.Duration {
	d := max(l.policy.ParkFor, 0)
	more := time.Duration(max(l.policy.Jitter, 0) * rand.Float64() * float64(d)) //nolint:gosec // no secret
	return max(d, d+more)                                                        // but for an overflow
}

// wait returns the ordinary wait: none after the first failure of a run that was ready.
func (l *ledger) wait(f failure) time.Duration {
	if l.inARow == 1 && f.ready {
		return 0
	}
	d := l.waits.NextBackOff()
	if d < 0 || d > l.policy.Max { // jitter takes it past the maximum, even of a Duration
		return l.policy.Max
	}
	return d
}

// calm starts the waits over. Failures within the window still count.
func (l *ledger) calm() {
	l.inARow = 0
	l.waits.Reset()
}

// clear forgets everything: the host has looked at it.
func (l *ledger) clear() {
	l.calm()
	l.failures = nil
}

func (l *ledger) forget(now time.Time) {
	keep := 0
	for keep < len(l.failures) && now.Sub(l.failures[keep]) >= l.policy.Window {
		keep++
	}
	l.failures = l.failures[keep:]
}

// starts bounds the starts under way. Instances whose last start failed go after all
// others, and have at most half of the places, so that those that cannot start do not hold
// up those that can.
type starts struct {
	limit, sickLimit int

	mu      sync.Mutex
	held    int
	sick    int // of those held
	waiting []*start
}

// start is one that waits, or is under way.
type start struct {
	sick bool
	turn chan struct{} // closed when it may go on
}

func newStarts(limit int) *starts {
	return &starts{limit: limit, sickLimit: max(1, limit/2)}
}

// acquire waits for a place until ctx ends.
func (s *starts) acquire(ctx context.Context, sick bool) (*start, error) {
	st := &start{sick: sick, turn: make(chan struct{})}
	s.mu.Lock()
	s.waiting = append(s.waiting, st)
	s.grant()
	s.mu.Unlock()
	if err := await(ctx, st.turn); err != nil {
		s.giveUp(st)
		return nil, fmt.Errorf("waiting for other instances to start: %w", err)
	}
	return st, nil
}

// giveUp takes it out of the line, or releases the place that it got in that moment.
func (s *starts) giveUp(st *start) {
	s.mu.Lock()
	i := slices.Index(s.waiting, st)
	if i >= 0 {
		s.waiting = slices.Delete(s.waiting, i, i+1)
	}
	s.mu.Unlock()
	if i < 0 {
		s.release(st)
	}
}

// release is to be called once for each start that acquire returned.
func (s *starts) release(st *start) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held--
	if st.sick {
		s.sick--
	}
	s.grant()
}

// grant is called under the lock.
func (s *starts) grant() {
	for s.held < s.limit {
		i := slices.IndexFunc(s.waiting, func(st *start) bool { return !st.sick })
		if i < 0 && s.sick < s.sickLimit && len(s.waiting) > 0 {
			i = 0
		}
		if i < 0 {
			return
		}
		st := s.waiting[i]
		s.waiting = slices.Delete(s.waiting, i, i+1)
		s.held++
		if st.sick {
			s.sick++
		}
		close(st.turn)
	}
}

// gateOf is the gate of one instance. A start that takes long is waiting for something,
// not working, and lets the next one go.
func (r *Runner) gateOf(id string) control.Gate {
	return func(ctx context.Context) (func(), error) {
		st, err := r.starts.acquire(ctx, r.isSick(id))
		if err != nil {
			return nil, err
		}
		release := sync.OnceFunc(func() { r.starts.release(st) })
		timer := time.AfterFunc(r.o.starts.Turn, release)
		return func() {
			timer.Stop()
			release()
		}, nil
	}
}

// isSick reports whether an instance's last start failed.
func (r *Runner) isSick(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	m, ok := r.members[id]
	return ok && m.sick
}
