package bench

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"sync"
	"time"
)

// churned is what came of changing the set.
type churned struct {
	mu      sync.Mutex
	ready   []float64 // ms from Add to ready
	gone    []float64 // ms of Remove
	errs    []error
	waiting sync.WaitGroup
}

// churn changes the set for a while, and reports what that cost.
func (s *scale) churn(ctx context.Context) error {
	if s.plan.Churn == 0 || s.plan.Rate == 0 {
		return nil
	}
	before, err := takeFootprint(ctx, s.settle)
	if err != nil {
		return err
	}
	c := &churned{}
	began, used := time.Now(), cpuTime()
	changes, err := s.change(ctx, c)
	took, busy := time.Since(began), cpuTime()-used
	c.waiting.Wait()
	settled := time.Since(began) - took
	if err := errors.Join(append(c.errs, err)...); err != nil {
		return err
	}
	after, err := takeFootprint(ctx, s.settle)
	if err != nil {
		return err
	}
	s.say("\nadded and removed %d each in %v: %.1f a second each; %.0f %% of one core; all settled %v later\n", changes,
		took.Round(time.Millisecond), float64(changes)/took.Seconds(), 100*busy.Seconds()/took.Seconds(), settled.Round(time.Millisecond))
	s.say("Add to ready: median %s ms, worst %s ms; Remove: median %s ms, worst %s ms\n", number(median(c.ready)),
		number(slices.Max(c.ready)), number(median(c.gone)), number(slices.Max(c.gone)))
	s.say("left over afterwards: %+d goroutines, %+.2f MB of heap\n", after.goroutines-before.goroutines,
		(float64(after.heap)-float64(before.heap))/(1<<20))
	return nil
}

// change adds an instance and removes the oldest, at the plan's rate. A host that
// cannot keep up is seen by how many it made.
func (s *scale) change(ctx context.Context, c *churned) (changes int, err error) {
	tick := time.NewTicker(time.Second / time.Duration(s.plan.Rate))
	defer tick.Stop()
	for began := time.Now(); changes == 0 || time.Since(began) < s.plan.Churn; changes++ {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return changes, context.Cause(ctx)
		}
		if err := s.replace(ctx, c, "c"+strconv.Itoa(changes)); err != nil {
			return changes, err
		}
	}
	return changes, nil
}

// replace adds an instance and removes the oldest. Each is waited for on its own.
func (s *scale) replace(ctx context.Context, c *churned, id string) error {
	began := time.Now()
	if err := s.set.runner.Add(id); err != nil {
		return err
	}
	oldest := s.set.ids[0]
	s.set.ids = append(s.set.ids[1:], id)
	c.waiting.Go(func() { c.book(&c.ready, began, s.set.runner.WaitReady(ctx, id)) })
	c.waiting.Go(func() { c.book(&c.gone, began, s.set.runner.Remove(ctx, oldest)) })
	return nil
}

func (c *churned) book(where *[]float64, began time.Time, err error) {
	took := millis(time.Since(began))
	c.mu.Lock()
	defer c.mu.Unlock()
	*where = append(*where, took)
	if err != nil {
		c.errs = append(c.errs, err)
	}
}
