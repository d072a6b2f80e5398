package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/osqvisor/osqvisor/stats"
)

// machineFaults come from below, or from wear.
func machineFaults() []fault {
	return []fault{
		{
			name: "clock jumps", notice: kinds(stats.Suspended{}),
			inject: func(_ context.Context, s *strike) error {
				s.w.clocks.jump(s.id, time.Hour)
				return nil
			},
		},
		{name: "open/close cycles", inject: cycles},
	}
}

// lanes is how many instances are opened and closed at the same time.
const lanes = 4

// cycles opens and closes instances over and over: most at some instant of their start,
// each eighth when it is ready.
func cycles(ctx context.Context, s *strike) error {
	before := countGoroutines()
	var wait sync.WaitGroup
	errs := make([]error, lanes)
	for lane := range lanes {
		wait.Go(func() {
			for i := lane; i < s.w.set.rare && errs[lane] == nil && ctx.Err() == nil; i += lanes {
				errs[lane] = s.w.cycle(ctx, fmt.Sprintf("%s-%d", "lane", lane), i)
			}
		})
	}
	wait.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	// A line or a query may be on its way, in either count.
	if more := before.leaked(); more > instances {
		return fmt.Errorf("%d goroutines are left of %d cycles", more, s.w.set.rare)
	}
	s.saw("%d cycles left nothing", s.w.set.rare)
	return nil
}

// cycle is the life of one instance.
func (w *world) cycle(ctx context.Context, id string, n int) error {
	if err := w.runner.Add(id); err != nil {
		return err
	}
	if n%8 == 0 {
		if err := w.runner.WaitReady(ctx, id); err != nil {
			return err
		}
	} else {
		pause(ctx, time.Duration(n%40)*5*time.Millisecond)
	}
	return w.runner.Remove(ctx, id)
}
