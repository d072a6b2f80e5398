// Command tlsagent is an agent of three instances of osqueryd on a server that
// speaks osquery's remote API (Fleet, osctrl and others):
//
//	go run ./examples/tlsagent -server https://fleet.example.com -enroll-secret-path secret
//
// Without -server it shows what the SDK promises, in less than 40 seconds: it starts
// a small server of its own, over TLS with a throw-away certificate, takes it away
// and brings it back, forgets the node keys, sends distributed queries, and kills
// osqueryd and the agent with SIGKILL in between. Every line has a number, so that
// it can report at the end whether one is lost, came twice or came out of order:
//
//	go run ./examples/tlsagent -json
//
// It runs the osqueryd of -osqueryd, of $OSQUERYD or of PATH, and else a built-in
// fake: real processes that speak osquery's protocol.
//
// The program is two processes, so that the agent can be killed. The agent, which is what
// a host would write, is here: agent.go, ticks.go (its table) and transport.go. The process
// that watches it is in internal/tlstrial.
//
// The exit code is 0 when all is as it should be, 1 when it is not, and 2 for wrong
// flags.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/osqvisor/osqvisor/instance/osquerydtest"
	"github.com/osqvisor/osqvisor/internal/tlstrial"
)

func main() {
	// The built-in osqueryd is this program under another name; then Main does not return.
	osquerydtest.Main()
	if tlstrial.IsAgent(os.Args) {
		os.Exit(agentMain(os.Stdin, os.Stdout, os.Stderr))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// From the first Ctrl-C on, the next one has its ordinary effect: it ends the program.
	context.AfterFunc(ctx, stop)
	os.Exit(tlstrial.Main(ctx, os.Args[1:], os.Stdout, os.Stderr))
}
