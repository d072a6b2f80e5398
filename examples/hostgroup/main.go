// Command hostgroup shows the Runner among the other parts of a host:
//
//	go run ./examples/hostgroup            # in an errgroup, which many hosts have
//	go run ./examples/hostgroup -service   # by Start and Stop, which service managers want
//
// In both cases two instances of osqueryd run beside a worker that queries them and an
// HTTP endpoint that reports how they are. All of it ends after -for, or on Ctrl-C. host.go
// has the errgroup, service.go the type with Start and Stop to take along.
//
// It runs the osqueryd of -osqueryd, of $OSQUERYD or of PATH, and else a built-in fake. The exit code is 0 when
// the endpoint reported all instances healthy and each answered the worker, else 1; it
// is 2 for wrong flags, and 130 when Ctrl-C came before that.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/osqvisor/osqvisor/instance/osquerydtest"
	"github.com/osqvisor/osqvisor/runtime"
)

// stopTimeout bounds Service.Stop: longer than an osqueryd may take to leave.
const stopTimeout = time.Minute

// settings are the values of the flags.
type settings struct {
	osqueryd string
	listen   string
	length   time.Duration
	service  bool
}

func main() {
	osquerydtest.Main() // the fake is this program under another name

	var s settings
	flag.StringVar(&s.osqueryd, "osqueryd", "", "the osqueryd to run, or \"fake\" for the built-in one")
	flag.StringVar(&s.listen, "listen", "127.0.0.1:0", "the address of the health endpoint")
	flag.DurationVar(&s.length, "for", 5*time.Second, "how long to run; longer if an instance is not healthy yet")
	flag.BoolVar(&s.service, "service", false, "use Start and Stop")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "unexpected argument %q; see -help\n", flag.Arg(0))
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the program at once
	err := start(ctx, s, os.Stdout)
	switch {
	case err == nil:
		fmt.Println("all parts have ended")
	case ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "hostgroup: interrupted:", err)
		os.Exit(130)
	default:
		fmt.Fprintln(os.Stderr, "hostgroup:", err)
		os.Exit(1)
	}
}

// start makes the host in a temporary directory, and runs it.
func start(ctx context.Context, s settings, out io.Writer) (err error) {
	dir, err := os.MkdirTemp("", "osqv")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	osqueryd, err := osquerydtest.Find(ctx, s.osqueryd)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, osqueryd.Close()) }()
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.listen)
	if err != nil {
		return err
	}
	runner, err := runtime.New(
		runtime.WithBinary(osqueryd.Path),
		runtime.WithRoot(filepath.Join(dir, "root")),
		runtime.WithInstance("vendor"),
		runtime.WithInstance("tenant-a"),
	)
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	return play(ctx, s, &host{runner: runner, listener: listener, say: sayer(out), patience: askTimeout})
}

// play runs the host, in one way or the other, while it looks at the health endpoint.
func play(ctx context.Context, s settings, h *host) error {
	if s.service {
		return playService(ctx, s, h)
	}
	runCtx, stop := context.WithCancel(ctx)
	defer stop()
	looking, ended := context.WithCancel(ctx) // no longer than there is something to see
	defer ended()
	ran := make(chan error, 1)
	go func() {
		ran <- h.run(runCtx)
		ended()
	}()
	err := look(looking, s.length, h)
	h.say("host: stopping")
	stop()
	return errors.Join(err, <-ran)
}

func playService(ctx context.Context, s settings, h *host) error {
	service := NewService(h.run)
	if err := service.Start(ctx); err != nil {
		return errors.Join(err, h.listener.Close())
	}
	looking, ended := context.WithCancel(ctx) // no longer than there is something to see
	defer ended()
	go func(over <-chan struct{}) {
		<-over
		ended()
	}(service.Done())
	err := look(looking, s.length, h)
	h.say("host: stopping the service")
	// Whatever ended ctx, the stop has a time of its own.
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	return errors.Join(err, service.Stop(bounded))
}
