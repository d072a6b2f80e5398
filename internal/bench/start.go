package bench

import (
	"context"
	"errors"
	"fmt"
	goruntime "runtime"
	"sync"
	"time"
)

// manyInstances is how many of a real osqueryd a shared machine is spared.
const manyInstances = 8

// manyPlain is how many starts at once plain osquery-go gets over: of 200 some never
// register, since it gives up waiting for its own connection after 200 ms.
const manyPlain = 50

// startsAtOnce is how many starts are under way at a time: the default of
// runtime.WithStarts. The floor keeps to it as well.
func startsAtOnce() int { return max(4, 2*goruntime.NumCPU()) }

// startGroup measures from the call of Run to the last of n instances ready. The
// floor is exec, dial, register.
func startGroup(n, rounds int) Group {
	name := fmt.Sprintf("start to ready, %d", n)
	return Group{
		Name: name, Slow: n > 1, Fake: n > manyInstances, Rounds: rounds,
		Rows: []Row{{Work: name, Unit: "ms", Goal: Goal{Kind: AtMostTimes, Bound: 1.15, Of: Floor}}},
		Open: func(_ context.Context, env *Env) (*Job, error) {
			steps := []Step{
				one(0, Ours, func(ctx context.Context) (float64, error) { return env.startOurs(ctx, n) }),
				one(0, Floor, func(ctx context.Context) (float64, error) {
					start := func() (*least, error) { return env.startLeast(ctx, spawnOptions{}) }
					return parallel(n, startsAtOnce(), start, (*least).close)
				}),
			}
			if n <= manyPlain {
				steps = append(steps, one(0, Plain, func(ctx context.Context) (float64, error) {
					start := func() (*plain, error) { return env.startPlain(ctx, spawnOptions{}) }
					return parallel(n, n, start, (*plain).close)
				}))
			}
			return &Job{Steps: steps}, nil
		},
	}
}

func (e *Env) startOurs(ctx context.Context, n int) (float64, error) {
	s, err := e.newSet(setOptions{n: n})
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if err := s.start(ctx); err != nil {
		return 0, err
	}
	took := time.Since(began)
	return millis(took), s.stop()
}

// parallel starts n things, at most width at a time, and returns how long that lasted
// until the last was there. Then it closes them all.
func parallel[T any](n, width int, start func() (T, error), closeOne func(T) error) (float64, error) {
	var (
		wait   sync.WaitGroup
		mu     sync.Mutex
		things []T
		errs   []error
	)
	turns := make(chan struct{}, width)
	began := time.Now()
	for range n {
		wait.Go(func() {
			turns <- struct{}{}
			thing, err := start()
			<-turns
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, err)
				return
			}
			things = append(things, thing)
		})
	}
	wait.Wait()
	took := time.Since(began)
	for _, thing := range things {
		wait.Go(func() {
			if err := closeOne(thing); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
			}
		})
	}
	wait.Wait()
	return millis(took), errors.Join(errs...)
}
