package bench

import (
	"context"
	"errors"
	"runtime"

	"github.com/osqvisor/osqvisor/internal/emit"
	"github.com/osqvisor/osqvisor/internal/plugin"
	"github.com/osqvisor/osqvisor/internal/record"
	"github.com/osqvisor/osqvisor/stats"
)

// allocGroup counts the allocations of a log line with an observer, a recorder and
// its counters attached, and a snapshot taken. The floor is the same call without.
func allocGroup() Group {
	return Group{
		Name: "allocations", Rounds: 3, Disk: true,
		Rows: []Row{{
			Work: "allocations of a log line, observed", Unit: "",
			Goal: Goal{Kind: AtMostMore, Bound: 0.01, Of: Floor},
		}},
		Open: openAlloc,
	}
}

func openAlloc(_ context.Context, env *Env) (*Job, error) {
	rec := record.New("bench", 0)
	emitter := emit.New(rec, stats.ObserverFunc(func(context.Context, stats.Event) {}))
	observed, err := env.newExtension(plugin.Settings{
		Counters: rec.Counters(), Emit: func(e stats.Event) { emitter.Emit(context.Background(), e) },
	})
	if err != nil {
		return nil, err
	}
	alone, err := env.newExtension(plugin.Settings{})
	if err != nil {
		return nil, errors.Join(err, observed.Close())
	}
	n := env.few(1000, 20_000)
	return &Job{
		Steps: []Step{
			one(0, Floor, func(ctx context.Context) (float64, error) { return allocsPerLine(ctx, alone, n, func() {}) }),
			one(0, Ours, func(ctx context.Context) (float64, error) {
				return allocsPerLine(ctx, observed, n, func() { _ = rec.Snapshot() })
			}),
		},
		Close: func() { _ = errors.Join(observed.Close(), alone.Close(), emitter.Close(context.Background())) },
	}, nil
}

// allocsPerLine returns the mean number of allocations of n calls, and of after.
func allocsPerLine(ctx context.Context, x *plugin.Extension, n int, after func()) (float64, error) {
	req := map[string]string{"string": logLine(), "category": "event"}
	for range 100 { // what is kept for later calls
		x.Call(ctx, "logger", x.Name(), req)
	}
	var before, now runtime.MemStats
	runtime.ReadMemStats(&before)
	for range n {
		if res := x.Call(ctx, "logger", x.Name(), req); res.Status.Code != 0 {
			return 0, errors.New(res.Status.Message)
		}
	}
	after()
	runtime.ReadMemStats(&now)
	return float64(now.Mallocs-before.Mallocs) / float64(n), nil
}
