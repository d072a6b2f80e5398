package runtime

import (
	"math"
	"testing"
	"time"

	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/stats"
)

// steady is a policy without chance in it.
var steady = RestartPolicy{Jitter: -1}

func fail(at time.Time, cause stats.Cause) failure {
	return failure{at: at, cause: cause, lasted: time.Second}
}

func TestWaitsGrowToTheLongest(t *testing.T) {
	l := newLedger(RestartPolicy{Jitter: -1, Budget: -1, Initial: time.Second, Max: 5 * time.Second})
	want := []time.Duration{1, 2, 4, 5, 5, 5}
	for i, w := range want {
		v := l.judge(fail(time.Unix(int64(i), 0), stats.CauseExit))
		if v.park || v.delay != w*time.Second || v.attempt != i+1 {
			t.Errorf("failure %d: %+v, want a wait of %ds", i+1, v, w)
		}
	}
}

func TestFirstFailureAfterReadyIsStartedAgainAtOnce(t *testing.T) {
	l := newLedger(steady)
	f := fail(time.Unix(0, 0), stats.CauseSignal)
	f.ready = true
	for i, want := range []time.Duration{0, time.Second, 2 * time.Second} {
		if v := l.judge(f); v.delay != want {
			t.Errorf("failure %d: wait of %v, want %v", i+1, v.delay, want)
		}
	}
}

func TestJitterStaysWithinItsBounds(t *testing.T) {
	seen := map[time.Duration]bool{}
	for range 300 {
		l := newLedger(RestartPolicy{Initial: time.Second, Jitter: 0.2, Max: 2100 * time.Millisecond, Budget: -1})
		for _, base := range []time.Duration{time.Second, 2 * time.Second} {
			d := l.judge(fail(time.Unix(0, 0), stats.CauseExit)).delay
			low, high := base*8/10, min(base*12/10+1, 2100*time.Millisecond) // the maximum holds with jitter too
			if d < low || d > high {
				t.Fatalf("wait of %v is outside %v to %v", d, low, high)
			}
			seen[d] = true
		}
	}
	if len(seen) < 100 {
		t.Errorf("only %d different waits in 600: jitter does not spread", len(seen))
	}
}

// The longest Duration is a natural way to say never.
func TestWaitsDoNotOverflow(t *testing.T) {
	const never = time.Duration(math.MaxInt64)
	for range 100 {
		l := newLedger(RestartPolicy{Initial: never, Max: never, Jitter: 1})
		if d := l.judge(fail(time.Unix(0, 0), stats.CauseExit)).delay; d < time.Hour {
			t.Fatalf("wait of %v, want a very long one", d)
		}
	}
}

func TestHealthyWhileStartsTheWaitsOver(t *testing.T) {
	l := newLedger(steady)
	at := time.Unix(0, 0)
	for range 3 {
		l.judge(fail(at, stats.CauseExit))
	}
	short := failure{at: at, cause: stats.CauseExit, ready: true, lasted: 59 * time.Second}
	if v := l.judge(short); v.delay != 8*time.Second {
		t.Errorf("after a run shorter than HealthyAfter: wait of %v, want 8s", v.delay)
	}
	unready := failure{at: at, cause: stats.CauseStartTimeout, lasted: time.Hour}
	if v := l.judge(unready); v.delay != 16*time.Second {
		t.Errorf("after a long run that never was ready: wait of %v, want 16s", v.delay)
	}
	long := failure{at: at, cause: stats.CauseExit, ready: true, lasted: time.Minute}
	v := l.judge(long)
	if v.delay != 0 || v.attempt != 1 {
		t.Errorf("after a healthy while: %+v, want a new start at once", v)
	}
	if v.failures != 6 {
		t.Errorf("%d failures in the window, want 6: a healthy while does not give the budget back", v.failures)
	}
}

// What a run spends before its spawn, such as the wait for its turn, is not a healthy while.
func TestHealthyWhileIsOsquerydsOwn(t *testing.T) {
	exit := &instance.ExitError{Phase: stats.PhaseServe, Cause: stats.CauseExit, Uptime: time.Second}
	if f := failureOf(exit, time.Hour); f.lasted != time.Second || !f.ready {
		t.Errorf("failure %+v, want one after a second", f)
	}
}

func TestBudgetCountsWithinItsWindow(t *testing.T) {
	l := newLedger(RestartPolicy{Budget: 3, Window: time.Minute})
	at := func(s int) failure { return fail(time.Unix(int64(s), 0), stats.CauseExit) }
	for _, s := range []int{0, 30, 60, 90} { // never three within a minute
		if v := l.judge(at(s)); v.park {
			t.Fatalf("parked at %ds with %d failures in the window", s, v.failures)
		}
	}
	v := l.judge(at(91))
	if !v.park || v.failures != 3 {
		t.Fatalf("three failures within a minute: %+v, want parked", v)
	}
	l.clear()
	if v := l.judge(at(92)); v.park || v.attempt != 1 || v.failures != 1 {
		t.Errorf("after the host resumed it: %+v, want a fresh budget", v)
	}
}

func TestCausesDecide(t *testing.T) {
	parks := []stats.Cause{stats.CauseBinaryMissing, stats.CauseBinaryUnusable, stats.CauseFlagRefused}
	for _, c := range parks {
		if v := newLedger(steady).judge(fail(time.Unix(0, 0), c)); !v.park {
			t.Errorf("%s does not park at once: %+v", c, v)
		}
	}
	waits := map[stats.Cause]time.Duration{
		stats.CauseDatabaseLocked: 5 * time.Second, stats.CausePidfileBusy: 5 * time.Second,
		stats.CauseLeftover: 5 * time.Second, stats.CauseDirectory: 5 * time.Second, stats.CauseResources: 5 * time.Second,
		stats.CauseCrashLoop: time.Minute, stats.CauseExit: time.Second, stats.CauseUnknown: time.Second,
	}
	for c, want := range waits {
		if v := newLedger(steady).judge(fail(time.Unix(0, 0), c)); v.park || v.delay != want {
			t.Errorf("%s: %+v, want a wait of %v", c, v, want)
		}
	}
}

func TestUnlimitedCausesUseNoBudget(t *testing.T) {
	l := newLedger(RestartPolicy{Budget: 2})
	for range 50 {
		if v := l.judge(fail(time.Unix(0, 0), stats.CauseDatabaseLocked)); v.park || v.failures != 0 {
			t.Fatalf("a database lock used the budget: %+v", v)
		}
	}
	if v := l.judge(fail(time.Unix(0, 0), stats.CauseExit)); v.park {
		t.Errorf("the first failure that counts parked: %+v", v)
	}
}

func TestHostOverridesCauses(t *testing.T) {
	l := newLedger(RestartPolicy{Jitter: -1, Causes: map[stats.Cause]CausePolicy{
		stats.CauseBinaryMissing: {MinDelay: time.Hour},
		stats.CauseExit:          {Park: true},
	}})
	if v := l.judge(fail(time.Unix(0, 0), stats.CauseBinaryMissing)); v.park || v.delay != time.Hour {
		t.Errorf("overridden cause: %+v, want a wait of 1h", v)
	}
	if v := l.judge(fail(time.Unix(0, 0), stats.CauseExit)); !v.park {
		t.Errorf("overridden cause: %+v, want parked", v)
	}
}

// The host may go on using its map while supervisors read the policy.
func TestPolicyIsACopy(t *testing.T) {
	causes := map[stats.Cause]CausePolicy{stats.CauseExit: {Park: true}}
	r, err := New(WithRestart(RestartPolicy{Causes: causes}))
	if err != nil {
		t.Fatal(err)
	}
	delete(causes, stats.CauseExit)
	if !r.o.policy.of(stats.CauseExit).Park {
		t.Error("a change of the host's map changed the policy")
	}
}

func TestPolicyMistakesAreAllNamed(t *testing.T) {
	errs := RestartPolicy{
		Initial: -1, Max: -2, HealthyAfter: -3, Window: -4, Multiplier: math.NaN(), Jitter: 1.5,
		Causes: map[stats.Cause]CausePolicy{stats.CauseExit: {MinDelay: -1}},
	}.check()
	wantMentions(t, errs, "Initial", "Max", "HealthyAfter", "Window", "Multiplier", "Jitter", "Causes[exit].MinDelay")
	wantMentions(t, RestartPolicy{Initial: time.Hour}.check(), "Max (5m0s) is shorter than Initial (1h0m0s)")
	if errs := (RestartPolicy{}).check(); len(errs) > 0 {
		t.Errorf("the zero value is refused: %v", errs)
	}
}
