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
// The exit code is 0 when everything happened as expected, 1 when it did not, 2 for
// wrong flags, and 130 when Ctrl-C came before the tour was over. A second Ctrl-C
// ends the program at once.
//
// tour.go has the calls of the SDK, in the order in which a host makes them.
package main

import (
	"context"
	"encoding/json"
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
	osquerydtest.Main() // the built-in osqueryd is this program under another name

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, func() { // a second Ctrl-C waits for nothing
		again := make(chan os.Signal, 1)
		signal.Notify(again, os.Interrupt, syscall.SIGTERM)
		<-again
		os.Exit(exitInterrupted)
	})
	code := start(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// settings are the flags.
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
		err = fmt.Errorf("-for %v is negative; set a time such as 10s", s.length)
	}
	if err != nil {
		fmt.Fprintln(stderr, err)
	}
	return s, err
}

// start is main without the process: it returns the exit code.
func start(ctx context.Context, args []string, stdout, stderr io.Writer) int {
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
	rep, err := takeTour(ctx, s, newTeller(progress))
	rep.conclude(err)
	if err != nil {
		fmt.Fprintln(stderr, "quickstart:", err)
	}
	if s.json {
		err = json.NewEncoder(stdout).Encode(rep)
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

// errInterrupted reports that Ctrl-C came before the tour was over.
var errInterrupted = errors.New("interrupted before the tour was over")

// report is the result of the tour. Each number is measured.
type report struct {
	Osqueryd   string `json:"osqueryd"` // a path, or "fake"
	Version    string `json:"version"`
	Instances  int    `json:"instances"` // that were ready and answered a query
	Restarts   uint64 `json:"restarts"`  // of all of them
	Untouched  bool   `json:"untouched"` // the others kept run, watcher and worker while one was killed
	Queries    int    `json:"queries"`   // that were answered
	RecoveryMS int64  `json:"recovery_ms"`
	Orphans    int    `json:"orphans"` // processes that were seen and still run at the end
	OK         bool   `json:"ok"`
	Error      string `json:"error,omitempty"`

	interrupted bool
}

// conclude decides whether everything went as it should.
func (r *report) conclude(err error) {
	r.interrupted = errors.Is(err, errInterrupted)
	if err != nil {
		r.Error = err.Error()
	}
	r.OK = err == nil && r.Instances == 3 && r.Restarts == 1 && r.Untouched && r.Queries > 0 && r.Orphans == 0
}

func (r *report) writeText(w io.Writer) error {
	verdict := "all as it should be"
	if !r.OK {
		verdict = "NOT as it should be"
	}
	_, err := fmt.Fprintf(w, "%s: %d instances, %d restart(s), the others untouched: %t, %d queries, recovered in %d ms, %d orphans\n",
		verdict, r.Instances, r.Restarts, r.Untouched, r.Queries, r.RecoveryMS, r.Orphans)
	return err
}
