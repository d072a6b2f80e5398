package osquerydtest

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/osqvisor/osqvisor/internal/fakeosqueryd"
)

// Main makes the process a fake osqueryd, and does not return, if the program's name contains
// "osqueryd" (but not "osquerydtest", nor ".test" at the end). Otherwise it does nothing. Call it
// first in TestMain or main.
func Main() {
	if !isFakeName(os.Args[0]) {
		return
	}
	// os.Exit without its hooks: under the race detector those take a second, which would make every fake a slow one to stop.
	syscall.Exit(runProcess(os.Args, os.Getenv("OSQUERY_WORKER")))
}

// isFakeName: a test binary of this package, or of one named alike, is none.
func isFakeName(argv0 string) bool {
	name := strings.TrimSuffix(filepath.Base(argv0), ".exe")
	return strings.Contains(name, "osqueryd") && !strings.HasSuffix(name, ".test") && !strings.Contains(name, "osquerydtest")
}

// runProcess is a whole fake process.
func runProcess(args []string, workerOf string) int {
	binary, err := filepath.Abs(args[0])
	if err != nil {
		binary = args[0]
	}
	script, dir, err := loadScript(binary)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	d := &director{dir: dir, rules: script.Rules}
	p := fakeosqueryd.New(script.config(args, os.Stdout, os.Stderr, d))
	if code, done := p.Parse(workerOf, false); done {
		return code
	}
	defer d.link.close()
	return p.Run()
}

// Serve runs a fake without a watchdog in goroutines, for hundreds of instances in one test, and
// returns its exit code. args[0] is ignored. The end of ctx is a SIGTERM. stderr may be nil.
func Serve(ctx context.Context, args []string, script Script, stderr io.Writer) int {
	return serve(ctx, args, script, "", stderr)
}

// Serve is the function Serve with the fake's script and control: Processes contains it.
func (f *Fake) Serve(ctx context.Context, args []string, stderr io.Writer) int {
	script, dir, err := loadScript(f.path)
	if err != nil {
		return 1
	}
	return serve(ctx, append([]string{f.path}, args...), script, dir, stderr)
}

func serve(ctx context.Context, args []string, script Script, dir string, stderr io.Writer) int {
	if stderr == nil {
		stderr = io.Discard
	}
	d := &director{dir: dir, rules: script.Rules}
	p := fakeosqueryd.New(script.config(args, io.Discard, stderr, d))
	if code, done := p.Parse("", true); done {
		return code
	}
	code := p.Serve(ctx)
	d.link.close()
	d.link.join()
	return code
}
