package bench

import (
	"context"
	"fmt"
	"log/slog"
	"regexp"
	"time"
)

// Plan is what to measure and how often.
type Plan struct {
	Match  *regexp.Regexp // of the rows' names; nil matches all
	Rounds int            // at least 1
	Logger *slog.Logger   // logs what is measured
}

// Run measures the rows that the plan asks for, group by group, and hands each
// group's results to emit as soon as they are there. It fails with the first error
// of a group, after trying the others, and stops when ctx ends.
func Run(ctx context.Context, env *Env, p Plan, emit func(Result)) error {
	var failed error
	for _, g := range Groups(env) {
		if !p.wants(env, g) {
			continue
		}
		p.Logger.Info("measuring", "group", g.Name)
		vs, err := measure(ctx, env, g, p.Rounds)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			p.Logger.Error("a group failed", "group", g.Name, "err", err)
			if failed == nil {
				failed = fmt.Errorf("%s: %w", g.Name, err)
			}
			continue
		}
		for i, row := range g.Rows {
			emit(newResult(row, vs[i]))
		}
	}
	return failed
}

func (p Plan) wants(env *Env, g Group) bool {
	if g.Slow && env.Quick {
		return false
	}
	for _, row := range g.Rows {
		if p.Match == nil || p.Match.MatchString(row.Work) {
			return true
		}
	}
	return false
}

// groupTimeout bounds a group: only a defect takes that long.
const groupTimeout = 10 * time.Minute

// measure takes all samples of a group. The steps take turns in going first.
func measure(ctx context.Context, env *Env, g Group, rounds int) ([]values, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, groupTimeout, fmt.Errorf("the group took more than %v", groupTimeout))
	defer cancel()
	if g.Fake {
		env = env.onFake()
	}
	if g.Disk {
		env = env.onDisk()
	}
	job, err := g.Open(ctx, env)
	if err != nil {
		return nil, err
	}
	if job.Close != nil {
		defer job.Close()
	}
	if g.Rounds > 0 {
		rounds = min(rounds, g.Rounds)
	}
	vs := make([]values, len(g.Rows))
	for round := range max(rounds, 1) {
		for i := range job.Steps {
			step := job.Steps[(round+i)%len(job.Steps)]
			samples, err := step(ctx)
			if err != nil {
				return nil, fmt.Errorf("round %d: %w", round+1, err)
			}
			for _, s := range samples {
				vs[s.Row][s.Who] = append(vs[s.Row][s.Who], s.Value)
			}
		}
	}
	return vs, nil
}

// one makes a step of a measurement of one value.
func one(row int, who Who, f func(ctx context.Context) (float64, error)) Step {
	return func(ctx context.Context) ([]Sample, error) {
		v, err := f(ctx)
		return []Sample{{row, who, v}}, err
	}
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
