package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/osqvisor/osqvisor/instance/osquerydtest"
)

// ScalePlan says how large a set is made, and how it is changed then.
type ScalePlan struct {
	Instances int           // at least 5
	Rate      int           // instances that are added, and as many removed, a second
	Churn     time.Duration // for how long; 0 leaves it out
	Watch     time.Duration // how long the idle CPU is sampled; 0 leaves it out
}

// scaleSteps is how many sizes the lines are fitted to.
const scaleSteps = 5

// scale is such a measurement under way.
type scale struct {
	plan   ScalePlan
	out    io.Writer
	set    *set
	settle time.Duration

	sizes, goroutines, heap, stacks, rss, ready []float64
}

// Scale brings up fake instances, each a process, in one host and in five equal
// steps; changes the set for a while; and writes what that cost to out. It stops when ctx ends.
func Scale(ctx context.Context, env *Env, plan ScalePlan, out io.Writer) (err error) {
	if plan.Instances < scaleSteps || plan.Rate < 0 {
		return fmt.Errorf("%d instances at %d a second: give at least %d and 0", plan.Instances, plan.Rate, scaleSteps)
	}
	binary, err := env.scripted(osquerydtest.Script{})
	if err != nil {
		return err
	}
	s := &scale{plan: plan, out: out, settle: env.settle()}
	if s.set, err = env.with(binary).newSet(setOptions{}); err != nil {
		return err
	}
	if err := s.set.start(ctx); err != nil {
		return err
	}
	defer func() {
		began := time.Now()
		err = errors.Join(err, s.set.stop())
		s.say("stop of all: %v\n", time.Since(began).Round(time.Millisecond))
	}()
	for _, part := range []func(context.Context) error{s.grow, s.idle, s.churn} {
		if err := part(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (s *scale) say(format string, args ...any) { _, _ = fmt.Fprintf(s.out, format, args...) }

// grow brings up the set and fits lines to what it costs.
func (s *scale) grow(ctx context.Context) error {
	s.say("| instances | s to ready, all | goroutines | heap MB | stacks MB | host RSS MB |\n| - | - | - | - | - | - |\n")
	var took time.Duration
	if err := s.note(ctx, 0, took); err != nil {
		return err
	}
	for step := 1; step <= scaleSteps; step++ {
		began := time.Now()
		n := s.plan.Instances * step / scaleSteps
		if err := s.set.grow(ctx, n-len(s.set.ids)); err != nil {
			return err
		}
		took += time.Since(began)
		if err := s.note(ctx, n, took); err != nil {
			return err
		}
	}
	s.say("\nfitted to a + b n; the residual is the largest distance from the line, in percent of the largest value\n\n")
	s.say("| | an instance more | residual %% |\n| - | - | - |\n")
	s.fit("time to ready", "ms", 1000, s.ready)
	s.fit("goroutines", "", 1, s.goroutines)
	s.fit("heap", "KB", 1024, s.heap)
	s.fit("stacks", "KB", 1024, s.stacks)
	s.fit("host RSS", "KB", 1024, s.rss)
	return nil
}

// note measures the host as it is.
func (s *scale) note(ctx context.Context, n int, took time.Duration) error {
	f, err := takeFootprint(ctx, s.settle)
	if err != nil {
		return err
	}
	const mb = 1 << 20
	rss := float64(residentBytes(os.Getpid()))
	s.sizes, s.ready = append(s.sizes, float64(n)), append(s.ready, took.Seconds())
	s.goroutines, s.rss = append(s.goroutines, float64(f.goroutines)), append(s.rss, rss/mb)
	s.heap, s.stacks = append(s.heap, float64(f.heap)/mb), append(s.stacks, float64(f.stacks)/mb)
	s.say("| %d | %.2f | %d | %.2f | %.2f | %.1f |\n", n, took.Seconds(), f.goroutines,
		float64(f.heap)/mb, float64(f.stacks)/mb, rss/mb)
	return nil
}

func (s *scale) fit(what, unit string, times float64, ys []float64) {
	l := fitLine(s.sizes, ys)
	s.say("| %s | %s %s | %.1f |\n", what, number(l.Slope*times), unit, 100*l.Residual)
}

func (s *scale) idle(ctx context.Context) error {
	if s.plan.Watch == 0 {
		return nil
	}
	if err := pause(ctx, 3*s.settle); err != nil {
		return err
	}
	share, err := cpuShare(ctx, s.plan.Watch)
	s.say("\nhost CPU, idle, %d instances: %s %% of one core over %v\n", s.plan.Instances, number(share), s.plan.Watch)
	return err
}
