package gameday

import (
	"context"
	"fmt"
	"strconv"
	"time"
)

// life distinguishes one life of an instance from another.
type life struct {
	run     string
	watcher int // the process that the SDK started
	worker  int // the process that answers queries
}

// answerPatience bounds a query. It is long, because the machine may be busy.
const answerPatience = 15 * time.Second

// ask queries an instance for who it is.
func (w *world) ask(ctx context.Context, id string) (life, error) {
	ctx, cancel := context.WithTimeout(ctx, answerPatience)
	defer cancel()
	rows, err := w.runner.Query(ctx, id, "select pid from osquery_info")
	if err != nil {
		return life{}, err
	}
	text := rows.Row(0).Get("pid")
	worker, err := strconv.Atoi(text)
	if err != nil {
		return life{}, fmt.Errorf("%s: osquery_info gave the pid %q", id, text)
	}
	in, err := w.runner.Instance(id)
	if err != nil {
		return life{}, err
	}
	return life{run: in.RunID(), watcher: in.PID(), worker: worker}, nil
}

// askAll waits until every instance is ready, and asks it.
func (w *world) askAll(ctx context.Context) (map[string]life, error) {
	lives := map[string]life{}
	for _, id := range w.ids {
		if err := w.runner.WaitReady(ctx, id); err != nil {
			return nil, err
		}
		l, err := w.ask(ctx, id)
		if err != nil {
			return nil, err
		}
		lives[id] = l
	}
	return lives, nil
}

// waitCalm waits for the first start of all.
func (w *world) waitCalm(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, w.patience())
	defer cancel()
	_, err := w.askAll(ctx)
	return err
}

// others asks the instances beside the victim, all the time, whether they still live
// the life that they had.
type others struct {
	w        *world
	victim   string
	before   map[string]life
	stop     context.CancelFunc
	done     chan struct{}
	disturbs map[string]string // by what; owned by the goroutine until done
}

func (w *world) watchOthers(ctx context.Context, victim string, before map[string]life) *others {
	ctx, cancel := context.WithCancel(ctx)
	o := &others{
		w: w, victim: victim, before: before, stop: cancel,
		done: make(chan struct{}), disturbs: map[string]string{},
	}
	go func() {
		defer close(o.done)
		for ctx.Err() == nil {
			o.round(ctx)
		}
	}()
	return o
}

func (o *others) round(ctx context.Context) {
	for _, id := range o.w.ids {
		if id == o.victim {
			continue
		}
		now, err := o.w.ask(ctx, id)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			o.disturbs[id] = err.Error()
		case now != o.before[id]:
			o.disturbs[id] = fmt.Sprintf("%+v became %+v", o.before[id], now)
		}
		pause(ctx, 20*time.Millisecond)
	}
}

// verdict asks a last time, and says who was disturbed.
func (o *others) verdict(ctx context.Context) []string {
	o.stop()
	<-o.done
	// What came last may have been cut short by the end of the strike; this has time.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), instances*answerPatience)
	defer cancel()
	o.round(ctx)
	var out []string
	for _, id := range o.w.ids {
		if why, ok := o.disturbs[id]; ok {
			out = append(out, id+": "+why)
		}
	}
	return out
}
