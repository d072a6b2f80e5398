package runtime

import (
	"context"
	"slices"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/internal/control"
	"github.com/osqvisor/osqvisor/internal/delivery"
	"github.com/osqvisor/osqvisor/internal/plugin"
	"github.com/osqvisor/osqvisor/stats"
)

// subject is what a Runner needs of an instance. supervised is one; tests
// put others here, so that policy is tested without processes.
type subject interface {
	control.Engine
	Query(ctx context.Context, sql string) (instance.Rows, error)
	QueryEach(ctx context.Context, sql string, each func(instance.Row) error) error
	PushConfig(ctx context.Context) error
	SetTables(ctx context.Context, tables ...extension.Table) error
	Snapshot() stats.Snapshot
}

// supervised is an instance with what drives it, whose Run and Close are not the public ones.
type supervised struct {
	engine
	*instance.Instance
}

// engine is embedded by another name, so that it is not exported.
type engine = control.Engine

func (s supervised) Run(ctx context.Context) error   { return s.engine.Run(ctx) }
func (s supervised) Close(ctx context.Context) error { return s.engine.Close(ctx) }

// maker makes subjects.
type maker interface {
	// plan returns what an instance with these options would be. It makes nothing.
	plan(id string, own []instance.Option, watch stats.Observer) control.Plan
	// withDefaults returns a maker with other defaults.
	withDefaults(opts []instance.Option) maker
	// make makes an instance, which holds nothing until it is run; ctx bounds the checks. old
	// is the one whose snapshot it continues, or nil.
	make(ctx context.Context, id string, own []instance.Option, old subject, watch stats.Observer) (subject, error)
	// check is make without an instance: it leaves nothing behind.
	check(ctx context.Context, id string, own []instance.Option) error
}

// place is what two instances cannot share.
type place struct {
	dir    string
	socket string
}

// realMaker makes *instance.Instance, with the Runner's options before the
// instance's own.
type realMaker struct {
	root     string
	binary   string            // empty when each instance names its own
	noBinary bool              // there is one, but it is wrong
	noRoot   bool              // so is the root
	common   []instance.Option // what the Runner's own options set
	defaults []instance.Option
	gate     func(id string) control.Gate
	pace     *plugin.EnrollPace // of all instances together
	shared   *control.Shared
	disk     *delivery.Budget // of all instances together
}

func (k *realMaker) options(own []instance.Option, watch stats.Observer, set func(*control.Settings)) []instance.Option {
	var opts []instance.Option
	if k.root != "" {
		opts = append(opts, instance.WithRoot(k.root))
	}
	if k.binary != "" {
		opts = append(opts, instance.WithBinary(k.binary))
	}
	opts = append(opts, k.common...)
	opts = append(opts, k.defaults...)
	opts = append(opts, own...)
	if watch != nil {
		opts = append(opts, instance.WithObserver(watch))
	}
	return append(opts, instance.Internal(func(s *control.Settings) {
		s.Pace, s.Disk, s.Shared = k.pace, k.disk, k.shared
		set(s)
	}))
}

// checkBinary checks the Runner's own binary, and has the instances know what it found.
func (k *realMaker) checkBinary(path string) error {
	k.noBinary = true
	_, err := instance.CheckBinary(context.Background(), path, k.options(nil, nil, func(*control.Settings) {})...)
	if err != nil {
		return &instance.OptionError{Option: "WithBinary", Err: err}
	}
	k.binary, k.noBinary = path, false
	return nil
}

func (k *realMaker) plan(id string, own []instance.Option, watch stats.Observer) control.Plan {
	var made control.Plan
	_, _ = instance.New(id, k.options(own, watch, func(s *control.Settings) {
		s.Plan = func(p control.Plan) { made = p }
	})...) // which only plans
	return made
}

func placeOf(p control.Plan) place {
	dir, socket := p.Place()
	return place{dir: dir, socket: socket}
}

func (k *realMaker) withDefaults(opts []instance.Option) maker {
	other := *k
	other.defaults = slices.Clone(opts)
	return &other
}

func (k *realMaker) check(ctx context.Context, id string, own []instance.Option) error {
	_, err := instance.New(id, k.options(own, nil, func(s *control.Settings) {
		s.DryRun, s.Context, s.NoBinary, s.NoRoot = true, ctx, k.noBinary, k.noRoot
	})...)
	return err
}

func (k *realMaker) make(
	ctx context.Context, id string, own []instance.Option, old subject, watch stats.Observer,
) (subject, error) {
	var made supervised
	opts := k.options(own, watch, func(s *control.Settings) {
		s.Supervise = func(e control.Engine) { made.engine = e }
		s.Gate, s.Context = k.gate(id), ctx
		if before, ok := old.(supervised); ok {
			s.Predecessor = before.engine
		}
	})
	in, err := instance.New(id, opts...)
	if err != nil {
		return nil, err // not a subject that holds a nil pointer
	}
	made.Instance = in
	return made, nil
}
