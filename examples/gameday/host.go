package main

import (
	"context"
	"errors"
	"io"
	"os"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/runtime"
)

// deaf is a transport whose server never takes a log: lines stay queued on disk.
type deaf struct{ *sink }

var errDeaf = errors.New("gameday: the server does not answer")

// PublishLogs fails.
func (deaf) PublishLogs(context.Context, extension.Node, extension.Batch) error { return errDeaf }

// hostMain is another host: it runs one instance, until it is killed. Its arguments are
// the binary, the root and the instance's id.
func hostMain(args []string) error {
	w := &world{set: worldSettings{}}
	opts := append(w.options(), instance.WithTables((&tables{}).of(args[2])))
	runner, err := runtime.New(
		runtime.WithBinary(args[0]), runtime.WithRoot(args[1]), runtime.WithTransport(deaf{newSink("{}")}),
		runtime.WithInstance(args[2], opts...),
	)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- runner.Run(ctx) }()
	if err := runner.WaitReady(ctx, args[2]); err != nil {
		return err
	}
	if err := stayUntilAlone(); err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, os.ErrClosed) {
		return err
	}
	cancel()
	return <-done
}
