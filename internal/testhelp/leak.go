package testhelp

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// Patience bounds every wait of a test; it is reached only by a defect.
const Patience = 60 * time.Second

// leakGrace is how long what is on its way out may take.
const leakGrace = 5 * time.Second

// CheckLeaks fails the test when, at its end, more goroutines, open files or child
// processes are there than now. Call it before anything that registers a cleanup.
// Tests that use it must not run in parallel with others.
func CheckLeaks(t testing.TB) {
	t.Helper()
	check := LeakCheck()
	t.Cleanup(func() {
		if err := check(); err != nil {
			t.Error(err)
		}
	})
}

// LeakCheck notes what there is now, and returns a function whose error names what has
// come and not gone since. It waits a bounded while for what is on its way out.
func LeakCheck() func() error {
	// The first pipe makes the Go runtime open its poller, which stays.
	if r, w, err := os.Pipe(); err == nil {
		_ = r.Close()
		_ = w.Close()
	}
	before := count()
	return func() error {
		end := time.Now().Add(leakGrace)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			err := before.grown(count())
			if err == nil || time.Now().After(end) {
				return err
			}
			<-tick.C
		}
	}
}

// resources is what a process has.
type resources struct {
	goroutines int
	files      []string // empty where they cannot be listed
	children   []string // likewise
}

func count() resources {
	return resources{goroutines: runtime.NumGoroutine(), files: openFiles(), children: children()}
}

func (r resources) grown(now resources) error {
	switch {
	case len(now.children) > len(r.children):
		return fmt.Errorf("child processes are left: had %d, have %d: %s",
			len(r.children), len(now.children), strings.Join(now.children, "; "))
	case now.goroutines > r.goroutines:
		return fmt.Errorf("goroutines are left: had %d, have %d:\n%s", r.goroutines, now.goroutines, stacks())
	case len(now.files) > len(r.files):
		return fmt.Errorf("files are left open: had %d, have %d: %s", len(r.files), len(now.files), strings.Join(now.files, "; "))
	}
	return nil
}

func stacks() string {
	buf := make([]byte, 1<<20)
	return string(bytes.TrimSpace(buf[:runtime.Stack(buf, true)]))
}
