package runtime

import (
	"math/rand/v2"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/osqvisor/osqvisor/stats"
)

// ledger keeps the failures of one instance and says what follows from the next
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

// wait gives the ordinary wait: none after the first failure of a run that was ready.
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
