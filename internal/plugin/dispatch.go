package plugin

import (
	"context"
	"slices"
	"time"

	"github.com/osqvisor/osqvisor/internal/delivery"
	"github.com/osqvisor/osqvisor/internal/guard"
)

// announceEvery bounds how often lost lines are announced.
const announceEvery = time.Second

// job is something the dispatcher does in the background when it is due.
type job struct {
	due func() (time.Time, bool)
	do  func(context.Context)
}

// dispatcher starts chores when they are due, each at most once at a time, each
// in a goroutine of its own, so that none waits for another. While nothing is due
// it is the only goroutine.
type dispatcher struct {
	jobs   []job
	wake   <-chan struct{}
	drops  *delivery.Drops
	events *guard.Announcer

	running  []bool
	done     chan int
	announce time.Time
}

// run returns when ctx has ended. work is the context of the chores; the caller
// ends it and then calls join.
func (d *dispatcher) run(ctx, work context.Context) {
	d.running = make([]bool, len(d.jobs))
	d.done = make(chan int, len(d.jobs))
	for ctx.Err() == nil {
		timer := time.NewTimer(d.next(work))
		select {
		case <-ctx.Done():
		case <-d.wake:
		case i := <-d.done:
			d.running[i] = false
		case <-timer.C:
		}
		timer.Stop()
	}
}

// join waits for the chores under way, and reports whether all returned before ctx ended.
func (d *dispatcher) join(ctx context.Context) bool {
	for slices.Contains(d.running, true) {
		select {
		case i := <-d.done:
			d.running[i] = false
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// next starts what is due and returns when to look again.
func (d *dispatcher) next(work context.Context) time.Duration {
	now, wait := time.Now(), time.Hour
	for i, c := range d.jobs {
		if d.running[i] {
			continue
		}
		when, ok := c.due()
		if !ok {
			continue
		}
		if when.After(now) {
			wait = min(wait, when.Sub(now))
			continue
		}
		d.running[i] = true
		go func() {
			c.do(work)
			d.done <- i
		}()
	}
	return min(wait, d.announceDrops(now))
}

// announceDrops announces lost lines, not too often.
func (d *dispatcher) announceDrops(now time.Time) time.Duration {
	if !d.drops.Any() {
		return time.Hour
	}
	if left := d.announce.Sub(now); left > 0 {
		return left
	}
	d.announce = now.Add(announceEvery)
	d.drops.Announce(d.events)
	return time.Hour
}
