package osquerydtest

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Main turns the calling process into a fake osqueryd when it was started
// under a name that contains "osqueryd" (and neither "osquerydtest" nor the
// ending ".test"), and then never returns. Otherwise it
// returns at once, having done nothing. Call it first in TestMain, or first in
// main of a program that uses a [Fake].
func Main() {
	if !isFakeName(os.Args[0]) {
		return
	}
	leave(runProcess(os.Args, os.Getenv("OSQUERY_WORKER")))
}

// leave is os.Exit without its hooks: under the race detector those take a
// second, which would make every fake a slow one to stop.
func leave(code int) { syscall.Exit(code) }

// isFakeName: a test binary of this package, or of one named alike, is none.
func isFakeName(argv0 string) bool {
	name := strings.TrimSuffix(filepath.Base(argv0), ".exe")
	return strings.Contains(name, "osqueryd") && !strings.HasSuffix(name, ".test") && !strings.Contains(name, "osquerydtest")
}

// runProcess is a whole fake process. The variable OSQUERY_WORKER alone makes
// it a worker.
func runProcess(args []string, workerOf string) int {
	p := newProcess(args, os.Stdout, os.Stderr)
	p.die = dieForReal
	if code, done := p.prepare(workerOf); done {
		return code
	}
	defer p.close()
	stopSignals := p.handleSignals()
	defer stopSignals()
	return p.run()
}
