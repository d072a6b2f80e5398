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

// Main turns the calling process into a fake osqueryd when it was started
// under a name that contains "osqueryd" (and neither "osquerydtest" nor the
// ending ".test"), and then never returns. Otherwise it
// returns at once, having done nothing. Call it first in TestMain, or first in
// main of a program that uses a [Fake].
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

// Serve plays one osqueryd, without a watchdog, by goroutines of the calling
// process: for hundreds of instances in one test, and for fuzzing. args is an
// argv, whose first element is only a name. Ending ctx is a SIGTERM; the
// actions Exit and Kill end the fake at once and leave its files behind.
//
// It returns the exit code when all of its goroutines have ended. stdout is
// discarded; stderr may be nil.
func Serve(ctx context.Context, args []string, script Script, stderr io.Writer) int {
	return serve(ctx, args, script, "", stderr)
}

// Serve is as the function Serve, with the fake's present script and remote
// control: the fake is among Processes, with the pid of this process.
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
