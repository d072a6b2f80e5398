package bench

import (
	"context"
	"errors"
	"time"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/internal/plugin"
)

// shipGroup measures how fast queued lines are delivered to a transport that takes
// them at once, next to how fast an osqueryd can log them, and the CPU that takes.
func shipGroup() Group {
	return Group{
		Name: "shipping", Disk: true,
		Rows: []Row{
			{Work: "shipping", Unit: "lines/s", Goal: Goal{Kind: AtLeastTimes, Bound: 1, Of: Other, Name: "logger calls"}},
			{Work: "shipping at the rate of logger calls", Unit: "cores", Goal: Goal{Kind: AtMost, Bound: 1}},
		},
		Open: openShip,
	}
}

func openShip(ctx context.Context, env *Env) (*Job, error) {
	s, err := env.startSet(ctx, setOptions{n: 1})
	if err != nil {
		return nil, err
	}
	job := &Job{Close: func() { _ = s.stop() }}
	in, err := s.runner.Instance(s.ids[0])
	if err != nil {
		return nil, errors.Join(err, s.stop())
	}
	d, err := newDriver(ctx, in.Socket(), "osqvisor")
	if err != nil {
		return nil, errors.Join(err, s.stop())
	}
	intake := d.fresh(env.few(20, 2000))
	lines := env.few(2000, 50_000)
	job.Steps = []Step{func(ctx context.Context) ([]Sample, error) {
		rate, err := intake(ctx)
		if err != nil {
			return nil, err
		}
		shipped, cores, err := env.ship(ctx, lines)
		return []Sample{{0, Other, rate}, {0, Ours, shipped}, {1, Ours, cores / shipped * rate}}, err
	}}
	return job, nil
}

// ship queues lines and delivers them. It returns the rate, and the cores that were busy.
func (e *Env) ship(ctx context.Context, lines int) (rate, cores float64, err error) {
	left, done := lines, make(chan struct{})
	sink := extension.Funcs{LogsFunc: func(_ context.Context, _ extension.Node, b extension.Batch) error {
		if left -= len(b.Lines); left == 0 { // one batch at a time
			close(done)
		}
		return nil
	}}
	x, err := e.newExtension(plugin.Settings{Transport: sink, Logs: extension.Logs{Sync: extension.SyncNever}})
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, x.Close()) }()
	for range lines {
		if err := store(ctx, x, logLine()); err != nil {
			return 0, 0, err
		}
	}
	run, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	began, used := time.Now(), cpuTime()
	go func() { ended <- x.Run(run) }()
	select {
	case <-done:
	case <-ctx.Done():
	}
	took, busy := time.Since(began), cpuTime()-used
	stop()
	err = errors.Join(<-ended, ctx.Err())
	return float64(lines) / took.Seconds(), busy.Seconds() / took.Seconds(), err
}
