package main

import (
	"context"
	"fmt"
	"time"
)

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
