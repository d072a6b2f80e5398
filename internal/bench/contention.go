package bench

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

const askers = 8 // goroutines that ask at the same time

// slow is a query of about 300 ms.
func slow() question {
	return question{
		fake: "select sleep(0.3)",
		real: "with recursive c(i) as (select 1 union all select i+1 from c where i < 1000000) select count(*) as n from c",
	}
}

// contentionGroup measures 8 goroutines that ask one osqueryd. The floor is one
// connection whose answers are not decoded.
func contentionGroup() Group {
	alone := Goal{Kind: AtLeastTimes, Bound: 0.95, Of: Other, Name: "ours from 1 goroutine"}
	return Group{
		Name: "8 goroutines", Rounds: 11,
		Rows: []Row{
			{Work: "1000 rows x 5, 8 goroutines", Unit: "/s", Goal: alone},
			{Work: "most less fewest answers of a goroutine", Unit: "", Goal: Goal{Kind: AtMost, Bound: 2}},
			{Work: "failed of 300 ms queries, 8 goroutines", Unit: "%", Goal: Goal{Kind: AtMost}},
		},
		Open: openContention,
	}
}

func openContention(ctx context.Context, env *Env) (*Job, error) {
	c, err := env.openClients(ctx)
	if err != nil {
		return nil, err
	}
	sql, long := thousandRows().sql(env), slow().sql(env)
	raw, err := newReplay(ctx, c.socket, sql)
	if err != nil {
		return nil, errors.Join(err, c.close())
	}
	ours := func(sql string) func(context.Context) error {
		return func(ctx context.Context) error { _, err := c.set.query(ctx, sql); return err }
	}
	plain := func(sql string) func(context.Context) error {
		return func(context.Context) error { return checkAnswer(c.plain.Query(sql)) }
	}
	// Short, and in turns often, because the machine's own pace changes within seconds.
	d, longer := time.Duration(env.few(100, 700))*time.Millisecond, time.Duration(env.few(100, 1500))*time.Millisecond
	return &Job{
		Steps: []Step{
			func(ctx context.Context) ([]Sample, error) {
				t := ask(ctx, askers, d, ours(sql))
				return []Sample{{0, Ours, t.rate()}, {1, Ours, t.spread()}}, t.broken()
			},
			func(ctx context.Context) ([]Sample, error) {
				t := ask(ctx, askers, d, plain(sql))
				return []Sample{{0, Plain, t.rate()}, {1, Plain, t.spread()}}, nil
			},
			func(ctx context.Context) ([]Sample, error) {
				t := ask(ctx, 1, d, ours(sql))
				return []Sample{{0, Other, t.rate()}}, t.broken()
			},
			func(ctx context.Context) ([]Sample, error) {
				t := ask(ctx, 1, d, func(context.Context) error { return raw.ask() })
				return []Sample{{0, Floor, t.rate()}}, t.broken()
			},
			func(ctx context.Context) ([]Sample, error) {
				return []Sample{{2, Ours, ask(ctx, askers, longer, ours(long)).failures()}}, nil
			},
			func(ctx context.Context) ([]Sample, error) {
				return []Sample{{2, Plain, ask(ctx, askers, longer, plain(long)).failures()}}, nil
			},
		},
		Close: func() { _ = errors.Join(raw.conn.Close(), c.close()) },
	}, nil
}

// tallies are what goroutines got that asked at the same time.
type tallies struct {
	answered []int
	failed   int
	first    error
	took     time.Duration
}

// ask has n goroutines call f, each again and again, until d has passed. What is
// under way by then is waited for.
func ask(ctx context.Context, n int, d time.Duration, f func(context.Context) error) tallies {
	t := tallies{answered: make([]int, n)}
	var mu sync.Mutex
	var wait sync.WaitGroup
	began := time.Now()
	for i := range n {
		wait.Go(func() {
			for time.Since(began) < d && ctx.Err() == nil {
				if err := f(ctx); err != nil {
					mu.Lock()
					t.failed++
					if t.first == nil {
						t.first = err
					}
					mu.Unlock()
					continue
				}
				t.answered[i]++
			}
		})
	}
	wait.Wait()
	t.took = time.Since(began)
	return t
}

func (t tallies) all() (n int) {
	for _, a := range t.answered {
		n += a
	}
	return n
}

// rate is answers a second.
func (t tallies) rate() float64 { return float64(t.all()) / t.took.Seconds() }

// spread is how far the goroutines are apart.
func (t tallies) spread() float64 { return float64(slices.Max(t.answered) - slices.Min(t.answered)) }

// failures is in percent of the attempts.
func (t tallies) failures() float64 {
	if t.failed == 0 {
		return 0
	}
	return 100 * float64(t.failed) / float64(t.failed+t.all())
}

// broken is the first failure where none should be.
func (t tallies) broken() error { return t.first }
