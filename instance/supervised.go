package instance

import (
	"context"

	"github.com/osqvisor/osqvisor/internal/control"
	"github.com/osqvisor/osqvisor/stats"
)

// Internal is for package runtime: its parameter is of an internal package.
func Internal(set func(*control.Settings)) Option {
	return func(o *options) {
		set(&o.settings)
		if s := o.settings.Shared; s != nil {
			o.checks = s.Load(func() any { return &binaryChecks{} }).(*binaryChecks)
		}
		if ctx := o.settings.Context; ctx != nil {
			o.ctx = ctx
		}
		if now := o.settings.Clock; now != nil {
			o.clock = now
		}
	}
}

// supervised reports whether a Runner drives the instance.
func (in *Instance) supervised() bool { return in.o.settings.Supervise != nil }

// engine is what a Runner drives an instance by.
type engine struct{ in *Instance }

func (e *engine) Run(ctx context.Context) error   { return e.in.runOnce(ctx) }
func (e *engine) Close(ctx context.Context) error { return e.in.closeOnce(ctx) }
func (e *engine) Ship(ctx context.Context) error  { return e.in.ship(ctx) }
func (e *engine) Settle(ctx context.Context)      { e.in.settle(ctx) }
func (e *engine) SetAsleep(asleep bool)           { e.in.setAsleep(asleep) }

func (e *engine) Record(ctx context.Context, ev stats.Event) { e.in.record(ctx, ev) }

func (e *engine) Conditions(ctx context.Context) (control.Conditions, error) {
	return e.in.conditions(ctx)
}

func (e *engine) AwaitReady(ctx context.Context, until <-chan struct{}) error {
	return e.in.awaitReady(ctx, until, func() bool { return false })
}

// plan is a set of options of which nothing was made.
type plan struct{ o *options }

func (p plan) Place() (dir, socket string) {
	if p.o.dir == "" && p.o.root == "" {
		return "", p.o.socket
	}
	paths := p.o.layout()
	return paths.dir, paths.socket
}
