// Command customtransport shows how a host brings a connection of its own: a client
// over HTTP (client.go, the file to take along) that two instances of osqueryd share,
// beside a small server (server.go) in the same program.
//
//	go run ./examples/customtransport
//
// Each instance fetches a config of its own, sends the results of its schedule in
// batches, of which the server refuses the first one once, and answers a distributed
// query. The program ends by itself then. The exit code is 0 only when all of it
// happened, 1 when it did not within a minute, 2 for wrong flags, and 130 after Ctrl-C.
//
// It runs the osqueryd of -osqueryd, of $OSQUERYD or of PATH, and else a built-in fake.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/instance/osquerydtest"
	"github.com/osqvisor/osqvisor/runtime"
)

// bound is how long it may take until all has happened.
const bound = time.Minute

func main() {
	osquerydtest.Main() // the fake is this program under another name

	osqueryd := flag.String("osqueryd", "", "the osqueryd to run, or \"fake\" for the built-in one")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "unexpected argument %q; see -help\n", flag.Arg(0))
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the program at once
	err := run(ctx, *osqueryd, os.Stdout)
	switch {
	case err == nil:
		fmt.Println("each instance got its own config, sent its own logs and answered its own query")
	case ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "customtransport: interrupted")
		os.Exit(130)
	default:
		fmt.Fprintln(os.Stderr, "customtransport:", err)
		os.Exit(1)
	}
}

// tenantOf returns the label that the host puts on an instance.
func tenantOf(id string) string { return strings.ToUpper(id) }

// run starts server and instances, waits until all has happened, and stops them.
func run(ctx context.Context, osqueryd string, out io.Writer) (err error) {
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	dir, err := os.MkdirTemp("", "osqv")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	found, err := osquerydtest.Find(ctx, osqueryd)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, found.Close()) }()

	ids := []string{"vendor", "tenant-a"}
	server := NewServer(sayer(out), ids...)
	address, stopServer, err := serve(ctx, server.Handler())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stopServer()) }()
	return supervise(ctx, found.Path, filepath.Join(dir, "root"), address, server, ids)
}

// supervise runs the instances, all on one client, until the server has it all.
func supervise(ctx context.Context, osqueryd, root, address string, server *Server, ids []string) error {
	httpClient := &http.Client{Transport: &http.Transport{}}
	defer httpClient.CloseIdleConnections()
	opts := []runtime.Option{
		runtime.WithBinary(osqueryd),
		runtime.WithRoot(root),
		runtime.WithTransport(&Client{base: address, http: httpClient}), // one for all instances
		runtime.WithInstanceDefaults(
			instance.WithDistributed(extension.Distributed{Interval: time.Second}), // for the example; once a minute in production
			instance.WithLogs(extension.Logs{BatchAge: time.Second / 2}),
		),
	}
	for _, id := range ids {
		labels := map[string]string{"tenant": tenantOf(id)} // stand in the Node of each call
		opts = append(opts, runtime.WithInstance(id, instance.WithLabels(labels)))
	}
	runner, err := runtime.New(opts...)
	if err != nil {
		return err
	}
	runCtx, stop := context.WithCancel(ctx)
	defer stop()
	ran := make(chan error, 1)
	go func() { ran <- runner.Run(runCtx) }()
	err = waitForAll(ctx, server, ids)
	if err != nil {
		err = errors.Join(err, runner.Healthy().Err()) // which has the reason, when an instance did not start
	}
	stop()
	return errors.Join(err, <-ran)
}

// waitForAll waits until no instance lacks anything, and returns what is lacking when it gives up.
func waitForAll(ctx context.Context, server *Server, ids []string) error {
	for {
		var missing []string
		for _, id := range ids {
			missing = append(missing, server.Missing(id)...)
		}
		if len(missing) == 0 {
			return nil
		}
		select {
		case <-server.changed:
		case <-ctx.Done():
			return fmt.Errorf("%w: %s", context.Cause(ctx), strings.Join(missing, "; "))
		}
	}
}

// serve starts an HTTP server on this machine alone. stop ends it and waits for it.
func serve(ctx context.Context, handler http.Handler) (address string, stop func() error, err error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	stop = func() error {
		err := server.Close()
		if ended := <-served; !errors.Is(ended, http.ErrServerClosed) {
			err = errors.Join(err, ended)
		}
		return err
	}
	return "http://" + listener.Addr().String(), stop, nil
}

// sayer writes lines from many goroutines, one at a time.
func sayer(out io.Writer) func(format string, args ...any) {
	var mu sync.Mutex
	return func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		_, _ = fmt.Fprintf(out, format+"\n", args...) // only for the eye
	}
}
