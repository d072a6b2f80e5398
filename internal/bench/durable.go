package bench

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/internal/plugin"
)

// durableGroup measures lines that are on the disk before osqueryd is answered.
// The floor is a loop of write and fdatasync.
func durableGroup() Group {
	single := Goal{Kind: AtLeastTimes, Bound: 1, Of: Other, Name: "ours, 1 instance"}
	return Group{
		Name: "durable lines", Disk: true,
		Rows: []Row{
			{Work: "durable log lines, 1 writer", Unit: "/s", Goal: Goal{Kind: AtLeastTimes, Bound: 0.8, Of: Floor}},
			{Work: "durable log lines, 8 writers", Unit: "/s", Goal: Goal{Kind: AtLeastTimes, Bound: 0.8, Of: Floor}},
			{Work: "durable log lines, 8 instances", Unit: "/s", Goal: single},
		},
		Open: openDurable,
	}
}

func openDurable(_ context.Context, env *Env) (*Job, error) {
	var all []*plugin.Extension
	closeAll := func() { _ = each(all, (*plugin.Extension).Close) }
	for range 8 {
		x, err := env.newExtension(plugin.Settings{Logs: extension.Logs{Sync: extension.SyncEachLine}})
		if err != nil {
			closeAll()
			return nil, err
		}
		all = append(all, x)
	}
	dir, err := env.newDir()
	if err != nil {
		closeAll()
		return nil, err
	}
	f, err := os.Create(filepath.Join(dir, "floor"))
	if err != nil {
		closeAll()
		return nil, err
	}
	n := env.few(5, 400)
	d := &durable{exts: all, file: f, n: n}
	return &Job{Steps: []Step{d.inTurns, d.together}, Close: func() { closeAll(); _ = f.Close() }}, nil
}

type durable struct {
	exts []*plugin.Extension
	file *os.File
	n    int
}

// inTurns alternates between the floor and ours, line by line, so that both meet
// the same disk.
func (d *durable) inTurns(ctx context.Context) ([]Sample, error) {
	line, text := []byte(logLine()), logLine()
	var ours, floor time.Duration
	for range d.n {
		t0 := time.Now()
		_, err := d.file.Write(line)
		err = errors.Join(err, flush(d.file))
		t1 := time.Now()
		if err := errors.Join(err, store(ctx, d.exts[0], text)); err != nil {
			return nil, err
		}
		floor, ours = floor+t1.Sub(t0), ours+time.Since(t1)
	}
	perSecond := func(d0 time.Duration) float64 { return float64(d.n) / d0.Seconds() }
	return []Sample{
		{0, Ours, perSecond(ours)}, {0, Floor, perSecond(floor)}, {1, Floor, perSecond(floor)},
		{2, Floor, perSecond(floor)}, {2, Other, perSecond(ours)},
	}, nil
}

// together has 8 writers of one instance, and then one writer of 8.
func (d *durable) together(ctx context.Context) ([]Sample, error) {
	one, err := d.writers(ctx, func(int) *plugin.Extension { return d.exts[0] })
	if err != nil {
		return nil, err
	}
	many, err := d.writers(ctx, func(i int) *plugin.Extension { return d.exts[i] })
	return []Sample{{1, Ours, one}, {2, Ours, many}}, err
}

func (d *durable) writers(ctx context.Context, of func(i int) *plugin.Extension) (float64, error) {
	const writers = 8
	errs := make([]error, writers)
	text := logLine()
	var wait sync.WaitGroup
	began := time.Now()
	for i := range writers {
		x := of(i)
		wait.Go(func() {
			for range d.n {
				errs[i] = errors.Join(errs[i], store(ctx, x, text))
			}
		})
	}
	wait.Wait()
	return float64(writers*d.n) / time.Since(began).Seconds(), errors.Join(errs...)
}

// store hands an extension a log line, as osqueryd's call does.
func store(ctx context.Context, x *plugin.Extension, line string) error {
	res := x.Call(ctx, "logger", x.Name(), map[string]string{"string": line, "category": "event"})
	if res.Status.Code != 0 {
		return errors.New(res.Status.Message)
	}
	return nil
}

// newExtension makes an extension without an osqueryd.
func (e *Env) newExtension(set plugin.Settings) (*plugin.Extension, error) {
	dir, err := e.newDir()
	if err != nil {
		return nil, err
	}
	set.Dir, set.Node = dir, func() extension.Node { return extension.Node{Instance: "bench"} }
	if set.Transport == nil {
		set.Transport = takesAll()
	}
	return plugin.New(set)
}
