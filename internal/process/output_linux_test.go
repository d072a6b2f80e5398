package process

import (
	"context"
	"runtime"
	"testing"

	"github.com/osqvisor/osqvisor/internal/testhelp"
)

func TestOutputSavesAGoroutineAndAPipe(t *testing.T) {
	testhelp.CheckLeaks(t)
	base := runtime.NumGoroutine()
	cost := func(change func(*Spec, func([]byte))) (goroutines, files int) {
		heard := newListener()
		spec := roleSpec("sleep", nil)
		change(&spec, heard.hear)
		mustSettle(t, base)
		files = openFiles(t)
		p := mustStart(t, spec)
		heard.ready(t, 1)
		goroutines, files = runtime.NumGoroutine()-base, openFiles(t)-files
		if err := p.KillGroup(); err != nil {
			t.Error(err)
		}
		mustExit(t, p)
		return goroutines, files
	}
	goroutines, files := cost(func(s *Spec, hear func([]byte)) { s.Output = hear })
	apartGoroutines, apartFiles := cost(func(s *Spec, hear func([]byte)) { s.Stdout = hear })
	// The base may hold the last moments of an earlier test; what one costs more than the other does not.
	if apartGoroutines-goroutines != 1 || apartFiles-files != 1 {
		t.Errorf("merged: %d goroutines, %d files; apart: %d, %d", goroutines, files, apartGoroutines, apartFiles)
	}
}

// mustSettle waits for the last goroutine of an earlier child, which ends just after Exited is closed.
func mustSettle(t *testing.T, goroutines int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := waitUntil(ctx, func() bool { return runtime.NumGoroutine() <= goroutines }); err != nil {
		t.Fatal(err)
	}
}
