package plugin

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/osqvisor/osqvisor/internal/guard"
)

// ErrRunning says that Run was called while it was under way.
var ErrRunning = errors.New("the extension is running already")

// Run delivers what is queued until ctx ends, and then goes on for at most the
// drain time ([WithDrain]) with what is still there. It returns when every
// goroutine that the extension made is gone, and nil when that went well; the
// error tells of code of the host that did not return. It may be called again
// after it returned. While nothing is queued it has one goroutine, its own.
func (e *Extension) Run(ctx context.Context) error {
	if !e.running.CompareAndSwap(false, true) {
		return ErrRunning
	}
	defer e.running.Store(false)
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	d := &dispatcher{chores: e.chores(), wake: e.wakeup, drops: e.drops, say: e.say}
	d.run(ctx, work)

	drain, cancel := context.WithTimeout(work, e.set.Drain)
	defer cancel()
	if err := e.Flush(drain); err != nil {
		e.set.Logger.Debug("what is left stays queued", "error", err)
	}
	stop()
	e.life.renew(false)
	grace, cancelGrace := context.WithTimeout(context.WithoutCancel(ctx), runGrace)
	defer cancelGrace()
	if joined := d.join(grace); !joined || !e.tasks.Wait(grace) {
		return fmt.Errorf("a call of the host's code: %w", guard.ErrNotReturned)
	}
	e.drops.Announce(e.say)
	return nil
}

// chores are what the dispatcher does.
func (e *Extension) chores() []chore {
	out := []chore{e.client.identity.chore(), e.configs.chore(), e.configs.provingChore()}
	for _, s := range e.shippers {
		out = append(out, chore{due: s.Due, do: func(ctx context.Context) { _ = s.DeliverOne(ctx) }})
	}
	return out
}

// Flush delivers everything that is queued, without waiting for more to fill a
// batch. It returns when nothing is left, when each queue either is empty or had
// a failure, or when ctx ends; the error joins the failures. What was not
// delivered stays queued. It may be called while Run is under way, or without it.
func (e *Extension) Flush(ctx context.Context) error {
	var g errgroup.Group
	errs := make([]error, len(e.shippers))
	for i, s := range e.shippers {
		g.Go(func() error {
			if err := s.DeliverAll(ctx); err != nil {
				errs[i] = fmt.Errorf("%s: %w", s.Set.Name, err)
			}
			return nil
		})
	}
	_ = g.Wait()
	return errors.Join(errs...)
}
