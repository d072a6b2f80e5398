package bench

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/runtime"
)

// set is a Runner with some instances.
type set struct {
	runner *runtime.Runner
	ids    []string
	root   string
	cancel context.CancelFunc
	ended  chan error
}

// setOptions is what a set consists of.
type setOptions struct {
	n        int
	root     string // of an earlier one, or empty for a new one
	watchdog bool
	extra    []instance.Option
	runner   []runtime.Option
}

// takesAll is a transport that takes everything and keeps nothing.
func takesAll() extension.Transport {
	return extension.Funcs{
		ConfigFunc: func(context.Context, extension.Node) (map[string]string, error) {
			return map[string]string{pluginName: "{}"}, nil
		},
		LogsFunc: func(context.Context, extension.Node, extension.Batch) error { return nil },
	}
}

// newSet makes a set that does not run. Its instances restart at once.
func (e *Env) newSet(o setOptions) (*set, error) {
	root := o.root
	if root == "" {
		var err error
		if root, err = e.newDir(); err != nil {
			return nil, err
		}
	}
	s := &set{root: root, ended: make(chan error, 1)}
	opts := []runtime.Option{
		runtime.WithBinary(e.Binary), runtime.WithRoot(root), runtime.WithTransport(takesAll()),
		runtime.WithRestart(runtime.RestartPolicy{HealthyAfter: time.Millisecond, Budget: -1}),
		runtime.WithInstanceDefaults(append([]instance.Option{
			instance.WithDistributed(extension.Distributed{Interval: -1}), instance.WithWatchdog(instance.Watchdog{Disabled: !o.watchdog}),
		}, o.extra...)...),
	}
	for i := range o.n {
		id := "i" + strconv.Itoa(i)
		s.ids = append(s.ids, id)
		opts = append(opts, runtime.WithInstance(id))
	}
	var err error
	s.runner, err = runtime.New(append(opts, o.runner...)...)
	return s, err
}

// start runs the set and waits until all of it is ready.
func (s *set) start(ctx context.Context) error {
	run, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	go func() { s.ended <- s.runner.Run(run) }()
	for _, id := range s.ids {
		if err := s.runner.WaitReady(ctx, id); err != nil {
			return errors.Join(err, s.stop())
		}
	}
	return nil
}

// startSet makes a set and waits until it is ready.
func (e *Env) startSet(ctx context.Context, o setOptions) (*set, error) {
	s, err := e.newSet(o)
	if err != nil {
		return nil, err
	}
	err = s.start(ctx)
	return s, err
}

// grow adds n instances while the set runs, and waits until all are ready.
func (s *set) grow(ctx context.Context, n int) error {
	first := len(s.ids)
	for i := range n {
		id := "i" + strconv.Itoa(first+i)
		if err := s.runner.Add(id); err != nil {
			return err
		}
		s.ids = append(s.ids, id)
	}
	for _, id := range s.ids[first:] {
		if err := s.runner.WaitReady(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

// stop returns when nothing of the set is left.
func (s *set) stop() error {
	s.cancel()
	timer := time.NewTimer(2 * killTimeout)
	defer timer.Stop()
	select {
	case err := <-s.ended:
		return err
	case <-timer.C:
		return errors.New("the set does not stop")
	}
}

func (s *set) query(ctx context.Context, sql string) (instance.Rows, error) {
	return s.runner.Query(ctx, s.ids[0], sql)
}

func (s *set) pid() (int, error) {
	in, err := s.runner.Instance(s.ids[0])
	if err != nil {
		return 0, err
	}
	return in.PID(), nil
}

// workerPID asks osqueryd who serves the socket.
func (s *set) workerPID(ctx context.Context) (int, error) {
	rows, err := s.query(ctx, "select pid from osquery_info")
	if err != nil {
		return 0, err
	}
	v, ok := rows.Row(0).Lookup("pid")
	if !ok {
		return 0, fmt.Errorf("osquery_info has %d rows and no pid", rows.Len())
	}
	return strconv.Atoi(v)
}
