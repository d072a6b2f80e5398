// Command tlsagent is an agent of three instances of osqueryd on a server that
// speaks osquery's remote API (Fleet, osctrl and others):
//
//	go run ./examples/tlsagent -server https://fleet.example.com -enroll-secret-path secret
//
// Without -server it shows what the SDK promises, in less than 40 seconds: it starts
// a small server of its own, over TLS with a throw-away certificate, takes it away
// and brings it back, forgets the node keys, asks distributed queries, and kills
// osqueryd and the agent with SIGKILL in between. Every line has a number, so that
// it can tell at the end whether one is lost, came twice or came out of order:
//
//	go run ./examples/tlsagent -json
//
// It runs the osqueryd of -osqueryd, of $OSQUERYD or of PATH, and else a built-in
// fake: real processes that speak osquery's protocol.
//
// The program is two processes, so that the agent can be killed. What a host would
// write is in agent.go and ticks.go; the rest is the one that watches it: it starts
// the agent, knows which lines osqueryd was told are stored (book.go), plays the
// server (server.go), makes the trouble (scenario.go) and judges.
//
// The exit code is 0 when all is as it should be, 1 when it is not, and 2 for wrong
// flags.
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
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	// The built-in osqueryd is this program under another name; then Main does not return.
	osquerydtest.Main()
	if isAgent(os.Args) {
		os.Exit(agentMain(os.Stdin, os.Stdout, os.Stderr))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// From the first Ctrl-C on, the next one has its ordinary effect: it ends the program.
	context.AfterFunc(ctx, stop)
	os.Exit(start(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// settings are what the flags say.
type settings struct {
	server, secretPath, ca string

	osqueryd string
	root     string
	length   time.Duration
	json     bool
}

func parse(args []string, stderr io.Writer) (settings, error) {
	var s settings
	flags := flag.NewFlagSet("tlsagent", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&s.server, "server", "", "the URL of a server (default: one of its own, with trouble)")
	flags.StringVar(&s.secretPath, "enroll-secret-path", "", "the file with the server's enroll secret")
	flags.StringVar(&s.ca, "ca", "", "a PEM file with the roots to trust, in place of the system's")
	flags.StringVar(&s.osqueryd, "osqueryd", "",
		"the osqueryd to run, or \"fake\" for the built-in one (default: $OSQUERYD, then PATH, then the built-in one)")
	flags.StringVar(&s.root, "root", "", "the directory for the instances' data, kept afterwards (default: a temporary one, removed)")
	flags.DurationVar(&s.length, "for", 30*time.Second, "how long to produce lines; what is begun is always finished")
	flags.BoolVar(&s.json, "json", false, "end with one line of JSON on stdout; everything else goes to stderr")
	if err := flags.Parse(args); err != nil {
		return s, fmt.Errorf("flags: %w", err)
	}
	err := s.check(flags.Args())
	if err != nil {
		fmt.Fprintln(stderr, err)
	}
	return s, err
}

func (s settings) check(rest []string) error {
	switch {
	case len(rest) > 0:
		return fmt.Errorf("unexpected argument %q; see -help", rest[0])
	case s.length < 0:
		return fmt.Errorf("-for %v is negative; give a time such as 30s", s.length)
	case s.server != "" && s.secretPath == "":
		return errors.New("-server needs -enroll-secret-path, the file with its enroll secret")
	case s.server == "" && (s.secretPath != "" || s.ca != ""):
		return errors.New("-enroll-secret-path and -ca are for -server, which is not given")
	}
	return nil
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
	rep, err := tour(ctx, s, newTale(progress))
	rep.conclude(err)
	if err != nil {
		fmt.Fprintln(stderr, "tlsagent:", err)
	}
	if err := rep.write(stdout, s.json); err != nil || !rep.OK {
		return exitFailed
	}
	return 0
}
