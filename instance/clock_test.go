package instance

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/osqvisor/osqvisor/internal/control"
)

// A sleep is what one clock counts and the other does not.
func TestTrial26SleepIsTheDifference(t *testing.T) {
	var always, running time.Duration
	look := sleepClock(func() time.Duration { return always }, func() time.Duration { return running })
	var h health
	h.slept(look())
	for _, tt := range []struct {
		name                  string
		always, running, want time.Duration
	}{
		{"running", time.Minute, time.Minute, 0},
		{"asleep", time.Hour, time.Minute, 59 * time.Minute},
		{"running again", time.Second, time.Second, 0},
	} {
		always, running = always+tt.always, running+tt.running
		if d := h.slept(look()); d != tt.want {
			t.Errorf("%s: slept %v, want %v", tt.name, d, tt.want)
		}
	}
}

// In a bubble the wall clock jumps by hours while the system's clocks, which cannot be set, go
// on for some microseconds.
func TestTrial26SystemClockIsNotTheWallClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		look := systemClock()
		first, _ := look()
		<-time.After(12 * time.Hour)
		if now, _ := look(); now.Sub(first) > time.Hour {
			t.Errorf("the wall clock stepped by 12 h, and the clock followed by %v", now.Sub(first))
		}
	})
}

// A sleep that nobody ended is over after a while.
func TestTrial26SleepWithoutWakeEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := &Instance{}
		r := &run{in: in}
		in.SetAsleep(true)
		for range 3 {
			if !r.noteAnnouncedSleep() {
				t.Error("awake at once")
			}
		}
		<-time.After(control.SleepLimit)
		if r.noteAnnouncedSleep() {
			t.Error("it sleeps for ever")
		}
		in.SetAsleep(false)
		if !r.noteAnnouncedSleep() || r.noteAnnouncedSleep() {
			t.Error("the late end is not one look long")
		}
	})
}
