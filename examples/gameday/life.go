package main

import (
	"context"
	"fmt"
	"strconv"
	"time"
)

// life tells one life of an instance from another.
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
