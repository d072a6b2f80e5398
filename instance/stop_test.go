package instance_test

import (
	"context"
	"testing"
	"time"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/instance/osquerydtest"
	"github.com/osqvisor/osqvisor/stats"
)

// deaf is a transport that returns from no delivery until it is released, whatever its context.
type deaf struct {
	*extension.Memory

	called  chan struct{}
	release chan struct{}
}

func (d deaf) PublishLogs(context.Context, extension.Node, extension.Batch) error {
	select {
	case d.called <- struct{}{}:
	default:
	}
	<-d.release
	return nil
}

// Whatever hangs in a stop, all of it together: the stop returns within Timeouts.Stop.
func TestPromise12StopKeepsToItsBound(t *testing.T) {
	t.Parallel()
	const bound = 3 * time.Second
	const slack = 2 * time.Second // of a busy machine
	ignoreTerm := osquerydtest.Rule{Phase: osquerydtest.PhaseStart, Action: osquerydtest.Action{Do: osquerydtest.IgnoreTerm}}
	for name, hangs := range map[string]struct{ osqueryd, transport, observer, checker bool }{
		"osqueryd":  {osqueryd: true},
		"transport": {transport: true},
		"observer":  {observer: true},
		"checker":   {checker: true},
		"all":       {true, true, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			release := make(chan struct{})
			script := fast
			if hangs.osqueryd {
				script = script.WithRule(ignoreTerm)
			}
			opts := []instance.Option{instance.WithTimeouts(instance.Timeouts{Stop: bound})}
			transport := deaf{extension.NewMemory(), make(chan struct{}, 1), release}
			if hangs.transport {
				opts = append(opts, instance.WithTransport(transport))
			}
			if hangs.observer {
				opts = append(opts, instance.WithObserver(stats.ObserverFunc(func(context.Context, stats.Event) { <-release })))
			}
			checking := make(chan struct{}, 1)
			if hangs.checker {
				opts = append(opts, instance.WithHealth(instance.Health{
					Delay: -1, Timeout: time.Hour, Check: func(context.Context, *instance.Instance) error {
						checking <- struct{}{}
						<-release
						return nil
					},
				}))
			}
			fake := osquerydtest.Start(t, osquerydtest.WithScript(script))
			in := newInstance(t, fake.Path(), opts...)
			t.Cleanup(func() { close(release) }) // before the instance is closed
			ctx, cancel := context.WithCancel(patient(t))
			defer cancel()
			done := make(chan error, 1)
			go func() { done <- in.Run(ctx) }()
			if err := in.WaitReady(patient(t)); err != nil {
				t.Fatal(err)
			}
			if hangs.transport {
				p, err := fake.WaitWorker(patient(t), "")
				if err != nil {
					t.Fatal(err)
				}
				if err := p.Emit(patient(t), `{"name":"q"}`); err != nil {
					t.Fatal(err)
				}
				<-transport.called
			}
			if hangs.checker {
				<-checking
			}
			began := time.Now()
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
			if took := time.Since(began); took > bound+slack {
				t.Errorf("the stop took %v", took)
			}
			nothingLeft(t, in)
		})
	}
}

// A negative Timeouts.Stop kills osqueryd at once.
func TestStopWithoutGrace(t *testing.T) {
	t.Parallel()
	fake := osquerydtest.Start(t, osquerydtest.WithScript(fast.WithRule(osquerydtest.Rule{
		Phase: osquerydtest.PhaseStart, Action: osquerydtest.Action{Do: osquerydtest.IgnoreTerm},
	})))
	r := start(t, fake.Path(), instance.WithTimeouts(instance.Timeouts{Stop: -1}))
	began := time.Now()
	r.stop()
	if err := r.wait(t); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 10*time.Second { // a grace would be 16 s
		t.Errorf("the stop took %v", took)
	}
	if h := r.Snapshot().History[0]; h.Signal != "SIGKILL" {
		t.Errorf("osqueryd ended by %q", h.Signal)
	}
}
