package runtime

import (
	"context"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/stats"
)

// subject is what a Runner needs of an instance. *instance.Instance is one; tests
// put others here, so that policy is tested without processes.
type subject interface {
	Run(ctx context.Context) error
	Ship(ctx context.Context) error
	Close(ctx context.Context) error
	Settle(ctx context.Context)
	SetAsleep(asleep bool)
	Conditions(ctx context.Context) (instance.Conditions, error)
	Record(ctx context.Context, e stats.Event)
	WaitReady(ctx context.Context) error
	Query(ctx context.Context, sql string) (instance.Rows, error)
	QueryEach(ctx context.Context, sql string, each func(instance.Row) error) error
	PushConfig(ctx context.Context) error
	SetTables(ctx context.Context, tables ...extension.Table) error
	Snapshot() stats.Snapshot
}

// maker makes subjects.
type maker interface {
	// locate gives where an instance with these options would live. It makes nothing.
	locate(id string, own []instance.Option) place
	// make makes an instance, which holds nothing until it is run; ctx bounds the checks. old
	// is the one whose snapshot it continues, or nil.
	make(ctx context.Context, id string, own []instance.Option, old subject, watch stats.Observer) (subject, error)
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
	binary   instance.Binary // zero when each instance names its own
	defaults []instance.Option
	gate     func(id string) instance.Gate
	pace     *extension.EnrollPace // of all instances together
	checks   *instance.BinaryChecks
	disk     *extension.DiskBudget // of all instances together
}

func (k *realMaker) options(id string, own []instance.Option) []instance.Option {
	var opts []instance.Option
	if k.root != "" {
		opts = append(opts, instance.WithRoot(k.root))
	}
	if k.binary.Path != "" {
		opts = append(opts, instance.WithCheckedBinary(k.binary))
	}
	opts = append(opts, k.defaults...)
	opts = append(opts, own...)
	return append(opts, instance.WithGate(k.gate(id)), instance.WithEnrollPace(k.pace), instance.WithBinaryChecks(k.checks),
		instance.WithDiskBudget(k.disk))
}

func (k *realMaker) locate(id string, own []instance.Option) place {
	dir, socket := instance.Locate(id, k.options(id, own)...)
	return place{dir: dir, socket: socket}
}

func (k *realMaker) make(
	ctx context.Context, id string, own []instance.Option, old subject, watch stats.Observer,
) (subject, error) {
	opts := append(k.options(id, own), instance.WithCheckContext(ctx))
	if watch != nil {
		opts = append(opts, instance.WithObserver(watch))
	}
	if before, ok := old.(*instance.Instance); ok {
		opts = append(opts, instance.WithPredecessor(before))
	}
	in, err := instance.New(id, opts...)
	if err != nil {
		return nil, err // not a subject that holds a nil pointer
	}
	return in, nil
}
