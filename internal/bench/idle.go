package bench

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"time"
)

// idleGroup measures what instances cost that do nothing.
func idleGroup(env *Env) Group {
	n := 200
	if env.Real {
		n = manyInstances
	}
	n = env.few(4, n)
	cpuGoal := Goal{Kind: AtMost, Bound: 0.5}
	return Group{
		Name: "idle", Rounds: 1,
		Rows: []Row{
			{Work: "goroutines of an idle instance", Unit: "", Goal: Goal{Kind: AtMost, Bound: 6}},
			{Work: "heap of an idle instance", Unit: "KB", Goal: Goal{Kind: AtMost, Bound: 48}},
			{Work: fmt.Sprintf("host CPU of %d idle instances", n), Unit: "% core", Goal: cpuGoal},
		},
		Open: func(_ context.Context, env *Env) (*Job, error) {
			watch := env.watchTime()
			return &Job{Steps: []Step{
				func(ctx context.Context) ([]Sample, error) { return env.idleOurs(ctx, n, watch) },
				func(ctx context.Context) ([]Sample, error) { return env.idleFloor(ctx, n, watch) },
				func(ctx context.Context) ([]Sample, error) { return env.idlePlain(ctx, min(n, manyInstances)) },
			}}, nil
		},
	}
}

// watchTime is how long the CPU is sampled: six times the default health interval,
// because every sixth check looks for every single plugin.
func (e *Env) watchTime() time.Duration {
	return time.Duration(e.few(200, 60_000)) * time.Millisecond
}

// firstCheck is how long the first health check, and the delivery of what osqueryd
// says at its start, take to be over.
func (e *Env) firstCheck() time.Duration {
	return time.Duration(e.few(1, 5000)) * time.Millisecond
}

// footprint is what a process holds.
type footprint struct {
	goroutines int
	heap       uint64 // bytes that live
	stacks     uint64 // bytes
}

// settle is the time for what is on its way out.
func (e *Env) settle() time.Duration {
	return time.Duration(e.few(50, 2000)) * time.Millisecond
}

// takeFootprint collects garbage first.
func takeFootprint(ctx context.Context, settle time.Duration) (footprint, error) {
	if err := pause(ctx, settle); err != nil {
		return footprint{}, err
	}
	runtime.GC() // twice, since pools give up what they hold at the second
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return footprint{runtime.NumGoroutine(), m.HeapAlloc, m.StackInuse}, nil
}

// per returns what n instances added, for each.
func (f footprint) per(n int, before footprint) (goroutines, heapKB float64) {
	return float64(f.goroutines-before.goroutines) / float64(n),
		(float64(f.heap) - float64(before.heap)) / float64(n) / 1024
}

// idleOurs adds instances to a Runner that runs, so that what it has of its own
// does not count as theirs.
func (e *Env) idleOurs(ctx context.Context, n int, watch time.Duration) ([]Sample, error) {
	s, err := e.newSet(setOptions{})
	if err != nil {
		return nil, err
	}
	if err := s.start(ctx); err != nil {
		return nil, err
	}
	samples, err := e.idleAdded(ctx, s, n, watch)
	return samples, errors.Join(err, s.stop())
}

func (e *Env) idleAdded(ctx context.Context, s *set, n int, watch time.Duration) ([]Sample, error) {
	before, err := takeFootprint(ctx, e.settle())
	if err != nil {
		return nil, err
	}
	if err := s.grow(ctx, n); err != nil {
		return nil, err
	}
	after, err := takeFootprint(ctx, e.settle())
	if err != nil {
		return nil, err
	}
	goroutines, heap := after.per(n, before)
	cpu, err := e.settledShare(ctx, watch)
	return []Sample{{0, Ours, goroutines}, {1, Ours, heap}, {2, Ours, cpu}}, err
}

// cpuShare returns the CPU that this process uses, in percent of one core.
func cpuShare(ctx context.Context, watch time.Duration) (float64, error) {
	began, used := time.Now(), cpuTime()
	if err := pause(ctx, watch); err != nil {
		return 0, err
	}
	return 100 * float64(cpuTime()-used) / float64(time.Since(began)), nil
}

func (e *Env) idlePlain(ctx context.Context, n int) ([]Sample, error) {
	before, err := takeFootprint(ctx, e.settle())
	if err != nil {
		return nil, err
	}
	hosts, err := many(n, func() (*plain, error) { return e.startPlain(ctx, spawnOptions{}) }, (*plain).close)
	if err != nil {
		return nil, err
	}
	after, err := takeFootprint(ctx, e.settle())
	if err != nil {
		return nil, errors.Join(err, each(hosts, (*plain).close))
	}
	goroutines, heap := after.per(n, before)
	return []Sample{{0, Plain, goroutines}, {1, Plain, heap}}, each(hosts, (*plain).close)
}
