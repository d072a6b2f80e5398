package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/extension/remoteapi"
	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/internal/tlstrial"
	"github.com/osqvisor/osqvisor/runtime"
	"github.com/osqvisor/osqvisor/stats"
)

// agentMain returns the exit code of the agent, which stops when its stdin ends.
func agentMain(stdin io.Reader, stdout, stderr io.Writer) int {
	signal.Ignore(os.Interrupt) // Ctrl-C reaches both processes; the other one decides
	// When the other one is killed, nobody reads stdout, and the agent still has osqueryd
	// to stop: a message that cannot be sent is an error then, and not the end. Not Ignore,
	// which osqueryd would inherit.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	if err := runAgent(stdin, tlstrial.NewSender(stdout), log); err != nil {
		fmt.Fprintln(stderr, "tlsagent agent:", err)
		return tlstrial.ExitFailed
	}
	return 0
}

func runAgent(stdin io.Reader, out *tlstrial.Sender, log *slog.Logger) error {
	in := json.NewDecoder(stdin)
	var o tlstrial.Orders
	if err := in.Decode(&o); err != nil {
		return fmt.Errorf("orders: %w", err)
	}
	a, err := newAgent(o, out, log)
	if err != nil {
		return err
	}
	defer a.client.CloseIdleConnections()
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	go func() { // ends with stdin, at the latest with the process
		a.obey(in)
		stop()
	}()
	return a.runner.Run(ctx)
}

// agent is a host of the SDK: a Runner, a Transport and a table.
type agent struct {
	out    *tlstrial.Sender
	client *remoteapi.Client
	runner *runtime.Runner
	tables []*ticks
}

func newAgent(o tlstrial.Orders, out *tlstrial.Sender, log *slog.Logger) (*agent, error) {
	a := &agent{out: out}
	trust, err := remoteapi.TLSConfig{RootCAFile: o.CA}.Build()
	if err != nil {
		return nil, err
	}
	a.client, err = remoteapi.New(o.Server, remoteapi.WithTLS(trust), remoteapi.WithGzip(),
		remoteapi.WithEnrollSecret(remoteapi.EnrollSecret{File: o.SecretPath}))
	if err != nil {
		return nil, err
	}
	runnerOptions := []runtime.Option{
		runtime.WithBinary(o.Osqueryd),
		runtime.WithRoot(o.Root),
		runtime.WithTransport(transport{Client: a.client, out: out}),
		runtime.WithObserver(stats.ObserverFunc(a.observe)),
		runtime.WithLogger(log), runtime.WithObserver(stats.LogTo(log)),
		runtime.WithRestart(runtime.RestartPolicy{Initial: 200 * time.Millisecond, Max: 2 * time.Second}),
		runtime.WithInstanceDefaults(
			instance.WithConfig(extension.Config{Refresh: 10 * time.Second, Policy: withTicks}),
			instance.WithDistributed(extension.Distributed{Interval: 2 * time.Second}),
			instance.WithLogs(extension.Logs{
				BatchLines: 200, BatchBytes: 256 << 10, BatchAge: 500 * time.Millisecond,
				Delivery: extension.Delivery{FirstWait: 200 * time.Millisecond, LongestWait: 2 * time.Second},
			}),
		),
	}
	for _, id := range tlstrial.Names() {
		runnerOptions = append(runnerOptions, a.instance(id, o.From))
	}
	a.runner, err = runtime.New(runnerOptions...)
	return a, err
}

// instance returns an instance with a name of its own on the server, and a table of its own.
func (a *agent) instance(id string, from uint64) runtime.Option {
	t := newTicks(from, func(first, last uint64) error { return a.reportTicks(id, first, last) })
	a.tables = append(a.tables, t)
	return runtime.WithInstance(id, instance.WithHostIdentifier(tlstrial.HostIdentifier(id)), instance.WithTables(t.table()))
}

// reportTicks is called by the table, so while osqueryd runs.
func (a *agent) reportTicks(id string, first, last uint64) error {
	in, err := a.runner.Instance(id)
	if err != nil {
		return err
	}
	return a.out.Send(tlstrial.Message{Kind: tlstrial.KindTicks, Instance: id, Run: in.RunID(), First: first, Last: last})
}

// observe is called with the events of all instances.
func (a *agent) observe(_ context.Context, e stats.Event) {
	m := tlstrial.Message{Instance: e.Meta().Instance}
	switch e := e.(type) {
	case stats.RunReady:
		m.Kind, m.PID = tlstrial.KindReady, e.PID
	case stats.Enrolled:
		m.Kind, m.Again = tlstrial.KindEnrolled, e.Again
	default:
		return
	}
	_ = a.out.Send(m) // nobody reads any more: stdin has ended, too
}

// obey returns when there are no more orders.
func (a *agent) obey(in *json.Decoder) {
	for {
		var o tlstrial.Orders
		if err := in.Decode(&o); err != nil {
			return
		}
		if o.Pause {
			for _, t := range a.tables {
				t.pause()
			}
		}
	}
}
