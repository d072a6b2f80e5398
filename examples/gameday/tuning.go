package main

import (
	"time"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/instance/osquerydtest"
	"github.com/osqvisor/osqvisor/runtime"
	"github.com/osqvisor/osqvisor/stats"
)

// What the fake spoils an answer by, when a query's text contains it.
const (
	spoilReset    = "gameday_reset"
	spoilRubbish  = "gameday_rubbish"
	spoilTruncate = "gameday_truncate"
	spoilHuge     = "gameday_huge"
)

// hugeAnswer is the size of the largest answer, in bytes.
const hugeAnswer = 50 << 20

// startPatience bounds a start.
const startPatience = 45 * time.Second

// script is a fake that waits a twentieth of what osqueryd does, and spoils certain answers.
func (w *world) script() osquerydtest.Script {
	s := osquerydtest.Script{TimeScale: 0.05}
	for text, do := range map[string]osquerydtest.Kind{
		spoilReset: osquerydtest.Reset, spoilRubbish: osquerydtest.Rubbish,
		spoilTruncate: osquerydtest.Truncate, spoilHuge: osquerydtest.Huge,
	} {
		s = s.WithRule(osquerydtest.Rule{
			Phase: osquerydtest.PhaseQuery, Match: text,
			Action: osquerydtest.Action{Do: do, Bytes: hugeAnswer},
		})
	}
	return s
}

// config gives a real osqueryd something to log; the fake is told when.
func (w *world) config() string {
	if w.set.osqueryd == "" {
		return "{}"
	}
	return `{"schedule": {"gameday": {"query": "select unix_time from time", "interval": 1, "snapshot": true}}}`
}

// options makes everything quick, so that a game takes a minute and not an hour.
func (w *world) options() []instance.Option {
	opts := []instance.Option{
		instance.WithDistributed(0), instance.WithConfigRefresh(0),
		instance.WithDrain(time.Second), instance.WithStartTimeout(startPatience),
		instance.WithReplaceTimeout(45 * time.Second),
		instance.WithExtension(
			extension.WithConfigTimeout(500*time.Millisecond), extension.WithTransportTimeout(time.Second),
			extension.WithLogBatch(200, 64<<10, 50*time.Millisecond),
			extension.WithBackoff(20*time.Millisecond, 200*time.Millisecond),
			extension.WithSync(extension.SyncNever()),
		),
	}
	if w.fake != nil {
		return append(opts, instance.WithHealth(250*time.Millisecond, time.Second, 3),
			instance.WithStopGrace(2*time.Second), instance.WithRegisterTimeout(5*time.Second))
	}
	return append(opts, instance.WithHealth(time.Second, 2*time.Second, 3),
		instance.WithStopGrace(5*time.Second), instance.WithWatchdog(instance.Watchdog{Delay: time.Second}))
}

// restartPolicy never gives up by the number of failures: a game has many.
func restartPolicy() runtime.RestartPolicy {
	soon := runtime.CausePolicy{MinDelay: 100 * time.Millisecond, Unlimited: true}
	return runtime.RestartPolicy{
		Initial: 50 * time.Millisecond, Max: 500 * time.Millisecond, HealthyAfter: time.Second, Budget: -1,
		Causes: map[stats.Cause]runtime.CausePolicy{
			stats.CauseDatabaseLocked: soon, stats.CausePidfileBusy: soon, stats.CauseLeftover: soon,
			stats.CauseCrashLoop: soon, stats.CauseDirectory: soon,
		},
	}
}

// patience bounds one fault, from injection to recovery.
func (w *world) patience() time.Duration {
	if w.fake == nil {
		return 3 * time.Minute
	}
	return 90 * time.Second
}
