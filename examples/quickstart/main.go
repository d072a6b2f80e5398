// Command quickstart is a tour of osqvisor in ten seconds. It needs nothing
// installed:
//
//	go run ./examples/quickstart
//
// Two instances of osqueryd start, a third joins them while they run, one of them is
// killed and comes back while the others do not notice, one is removed, and all
// are stopped. A table shows how each of them is.
//
// It runs the osqueryd of -osqueryd, of $OSQUERYD or of PATH, and else a built-in
// fake: real processes that speak osquery's protocol.
//
// The exit code is 0 when everything happened as told, 1 when it did not, 2 for
// wrong flags, and 130 when Ctrl-C came before the tour was over. A second Ctrl-C
// does not wait for anything.
//
// To read it, begin with scenario.go: the calls of the SDK are there, in the order in
// which a host makes them.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/osqvisor/osqvisor/instance/osquerydtest"
)

const (
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130
)

func main() {
	// The built-in osqueryd is this program under another name; then Main does not return.
	osquerydtest.Main()

	os.Exit(start(untilInterrupt(), os.Args[1:], os.Stdout, os.Stderr))
}

// untilInterrupt gives a context that ends at the first Ctrl-C. The second one ends the
// program, wherever it is.
func untilInterrupt() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() { // for as long as the program lives
		<-signals
		cancel()
		<-signals
		os.Exit(exitInterrupted)
	}()
	return ctx
}

// settings are what the flags say.
type settings struct {
	osqueryd string
	root     string
	length   time.Duration
	json     bool
}

func parse(args []string, stderr io.Writer) (settings, error) {
	var s settings
	flags := flag.NewFlagSet("quickstart", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&s.osqueryd, "osqueryd", "",
		"the osqueryd to run, or \"fake\" for the built-in one (default: $OSQUERYD, then PATH, then the built-in one)")
	flags.StringVar(&s.root, "root", "", "the directory for the instances' data, kept afterwards (default: a temporary one, removed)")
	flags.DurationVar(&s.length, "for", 10*time.Second, "how long to run; the tour is always finished")
	flags.BoolVar(&s.json, "json", false, "end with one line of JSON on stdout; everything else goes to stderr")
	if err := flags.Parse(args); err != nil {
		return s, fmt.Errorf("flags: %w", err)
	}
	var err error
	switch {
	case flags.NArg() > 0:
		err = fmt.Errorf("unexpected argument %q; see -help", flags.Arg(0))
	case s.length < 0:
		err = fmt.Errorf("-for %v is negative; give a time such as 10s", s.length)
	}
	if err != nil {
		fmt.Fprintln(stderr, err)
	}
	return s, err
}

// start is main without the process: it returns the exit code.
func start(ctx context.Context, args []string, stdout, stderr *os.File) int {
	s, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		return exitUsage
	}
	progress := stdout
	if s.json {
		progress = stderr // stdout is for programs then
	}
	rep, err := tour(ctx, s, newScreen(progress))
	rep.conclude(err)
	if err != nil {
		fmt.Fprintln(stderr, "quickstart:", err)
	}
	if s.json {
		err = rep.writeJSON(stdout)
	} else {
		err = rep.writeText(stdout)
	}
	switch {
	case rep.OK && err == nil:
		return 0
	case rep.interrupted:
		return exitInterrupted
	}
	return exitFailed
}
