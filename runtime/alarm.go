package runtime

import (
	"context"
	"sync"
	"time"

	"github.com/osqvisor/osqvisor/stats"
)

// Values of stats.RateAlarm.What.
const (
	// AlarmRestarts counts restarts after failures.
	AlarmRestarts = "restarts"
	// AlarmWatchdogKills counts the workers that osqueryd's watchdog stopped.
	AlarmWatchdogKills = "watchdog kills"
)

// alarm observes one member's events and reports when there are too many of a
// kind. It outlives the instance's updates.
type alarm struct {
	id     string
	limit  int
	window time.Duration

	mu    sync.Mutex
	say   func(context.Context, stats.Event) // nil until there is an instance
	rates map[string]*rate
}

// maxTimes bounds what is kept and reported of a rate far beyond its limit.
const maxTimes = 1000

// rate is the times of one kind of event, within the window, oldest first.
type rate struct {
	times []time.Time
	rang  time.Time // when the alarm was last raised
}

func newAlarm(id string, limit int, window time.Duration) *alarm {
	return &alarm{
		id: id, limit: limit, window: window,
		rates: map[string]*rate{AlarmRestarts: {}, AlarmWatchdogKills: {}},
	}
}

// bind makes alarms go out with the events of in.
func (a *alarm) bind(in subject) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.say = in.Record
}

// Observe counts an event.
func (a *alarm) Observe(ctx context.Context, e stats.Event) {
	var what string
	switch e.(type) {
	case stats.RestartScheduled:
		what = AlarmRestarts
	case stats.WatchdogKilled:
		what = AlarmWatchdogKills
	default:
		return
	}
	if say, n := a.count(what, e.Meta().Time); say != nil {
		h := e.Meta()
		say(ctx, stats.RateAlarm{Head: h, What: what, Count: n, Window: a.window})
	}
}

// count books one event. When it is one too many, and the first such within the
// window, it returns whom to call and how many there were.
func (a *alarm) count(what string, at time.Time) (say func(context.Context, stats.Event), n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	r := a.rates[what]
	r.times = append(r.times, at)
	old := 0
	for old < len(r.times) && at.Sub(r.times[old]) >= a.window {
		old++
	}
	r.times = r.times[old:]
	n = len(r.times)
	if most := max(a.limit+1, maxTimes); n > most {
		r.times = r.times[n-most:]
		n = most
	}
	if n <= a.limit || !r.rang.IsZero() && at.Sub(r.rang) < a.window {
		return nil, 0
	}
	r.rang = at
	return a.say, n
}
