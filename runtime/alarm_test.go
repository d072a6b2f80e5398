package runtime

import (
	"testing"
	"time"

	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/stats"
)

func TestRateAlarmOncePerWindow(t *testing.T) {
	const every, day = time.Minute, 24 * time.Hour
	bubble(t, dying(every, stats.CauseExit), func(t *testing.T, _ *Runner, f *fakes) {
		after(3*every + time.Second)
		if alarms := of[stats.RateAlarm](f); len(alarms) != 0 {
			t.Fatalf("alarm at the limit: %+v", alarms)
		}
		after(every)
		alarms := of[stats.RateAlarm](f)
		if len(alarms) != 1 {
			t.Fatalf("%d alarms, want 1", len(alarms))
		}
		if a := alarms[0]; a.What != AlarmRestarts || a.Count != 4 || a.Window != time.Hour || a.Instance != "vendor" {
			t.Fatalf("alarms %+v, want one, of 4 restarts", alarms)
		}
		after(50 * every)
		if n := len(of[stats.RateAlarm](f)); n != 1 {
			t.Fatalf("%d alarms within the window, want 1", n)
		}
		after(20 * every)
		if alarms := of[stats.RateAlarm](f); len(alarms) != 2 || alarms[1].Count != 60 {
			t.Errorf("alarms %+v, want a second one, of the 60 restarts within the hour", alarms)
		}
		after(day)
		if n := len(of[stats.RateAlarm](f)); n < 20 || n > 27 {
			t.Errorf("%d alarms in a day, want about one an hour", n)
		}
	}, WithRateAlarm(3, time.Hour), WithRestart(RestartPolicy{Budget: -1}))
}

func TestRateAlarmCountsKillsApartAndThroughUpdates(t *testing.T) {
	bubble(t, lasting, func(t *testing.T, r *Runner, f *fakes) {
		kill := func() {
			_, in, err := r.find("vendor")
			if err != nil {
				t.Fatal(err)
			}
			in.Record(t.Context(), stats.WatchdogKilled{Head: head("vendor")})
		}
		kill()
		kill()
		if _, err := r.Update(t.Context(), "vendor", instance.WithEnv("A=1")); err != nil {
			t.Fatal(err)
		}
		if n := len(of[stats.RateAlarm](f)); n != 0 {
			t.Fatalf("%d alarms at the limit", n)
		}
		kill()
		alarms := of[stats.RateAlarm](f)
		if len(alarms) != 1 || alarms[0].What != AlarmWatchdogKills || alarms[0].Count != 3 {
			t.Errorf("alarms %+v, want one, of 3 watchdog kills", alarms)
		}
	}, WithRateAlarm(2, time.Hour))
}
