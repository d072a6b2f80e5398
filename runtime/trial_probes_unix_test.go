//go:build unix

package runtime_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/internal/testhelp"
	"github.com/osqvisor/osqvisor/runtime"
)

// counted is an osqueryd that answers checks, and counts its executions.
type counted struct{ path, log string }

func newCounted(t *testing.T) counted {
	t.Helper()
	dir := testhelp.Root(t)
	c := counted{filepath.Join(dir, "osqueryd"), filepath.Join(dir, "executions")}
	c.change(t, "5.23.0")
	return c
}

// change installs a binary of another version.
func (c counted) change(t *testing.T, version string) {
	t.Helper()
	script := fmt.Sprintf("#!/bin/sh\necho \"$*\" >>%s\necho osqueryd version %s\n", c.log, version)
	must(t, os.WriteFile(c.path+".new", []byte(script), 0o755))
	must(t, os.Rename(c.path+".new", c.path))
}

// executions since the last call.
func (c counted) executions(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile(c.log)
	must(t, err)
	must(t, os.WriteFile(c.log, nil, 0o600))
	return strings.Count(string(text), "\n")
}

// One set of flags and one binary make one probe, however many instances have them.
func TestTrial22ProbesDoNotGrowWithTheSet(t *testing.T) {
	c := newCounted(t)
	opts := []runtime.Option{
		runtime.WithBinary(c.path), runtime.WithRoot(testhelp.Root(t)),
		runtime.WithInstanceDefaults(instance.WithFlag("read_max", "1048576")),
	}
	for i := range 50 {
		opts = append(opts, runtime.WithInstance(fmt.Sprint("tenant-", i)))
	}
	r, err := runtime.New(opts...)
	must(t, err)
	if n := c.executions(t); n != 3 { // its version, the SDK's flags, the host's
		t.Errorf("New with 50 instances executed the binary %d times, want 3", n)
	}
	must(t, r.Add("other", instance.WithFlag("read_max", "2097152")))
	if n := c.executions(t); n != 1 {
		t.Errorf("another set of flags executed the binary %d times, want once", n)
	}
	c.change(t, "5.24.0")
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			if err := r.Add(fmt.Sprint("late-", i)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := c.executions(t); n != 3 {
		t.Errorf("20 Adds after a change of the binary executed it %d times, want 3", n)
	}
	in, err := r.Instance("late-7")
	must(t, err)
	if v := in.Binary().Version; v != "5.24.0" {
		t.Errorf("version %q, want that of the new binary", v)
	}
}
