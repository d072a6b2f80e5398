// Command gameday breaks osqueryd, its files, its socket and its host in every way
// we know of, and looks whether osqvisor survives:
//
//	go run ./examples/gameday -for 60s -seed 1
//
// Eight instances run. Each fault is injected into one of them, first one after the
// other and then at random for the time of -for, while the seven others are queried
// all the time for whether they noticed. A table shows for each fault by what it was
// detected, which cause was reported, the time to recovery and how many
// other instances were disturbed.
//
// A recovery is over when the instance is ready and answers a query again. Log lines
// flow all the time; at the end each one that was acknowledged must have arrived, in
// order, unless its loss was announced. No process and no goroutine may be left.
//
// It runs on a built-in fake osqueryd: real processes that speak osquery's protocol.
// With -osqueryd PATH it runs those faults that can be done to a real one, and reports
// which are left out and why. To fill a disk it has to be root, on Linux. With -json the last line of stdout is for programs.
//
// The exit code is 0 when everything held, 1 when it did not, 2 for wrong flags.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/osqvisor/osqvisor/instance/osquerydtest"
	"github.com/osqvisor/osqvisor/internal/gameday"
)

func main() {
	// The built-in osqueryd and the helpers are this program under another name, or with a
	// variable set; then these do not return.
	osquerydtest.Main()
	gameday.HelperMain()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := gameday.Main(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
