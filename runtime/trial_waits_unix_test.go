//go:build unix

package runtime_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/internal/testhelp"
	"github.com/osqvisor/osqvisor/runtime"
	"github.com/osqvisor/osqvisor/stats"
)

// A run that ended by itself is followed by the next one whatever observers do.
func TestTrial19SlowObserverDelaysNoRestart(t *testing.T) {
	testhelp.CheckLeaks(t)
	ended, proceed := make(chan struct{}), make(chan struct{})
	observer := stats.ObserverFunc(func(_ context.Context, e stats.Event) {
		if ev, ok := e.(stats.RunEnded); ok && ev.Cause != stats.CauseRequested {
			close(ended)
			<-proceed
		}
	})
	h := newHost(t, fakeWith(t), runtime.WithObserver(observer),
		runtime.WithInstance("vendor", instance.WithTimeouts(instance.Timeouts{Observers: time.Hour})))
	h.run(t)
	h.ready(t, "vendor")
	in, err := h.Instance("vendor")
	must(t, err)
	first := in.RunID()
	kill(t, h.pid(t, "vendor"))
	<-ended
	must(t, in.WaitRunOver(testhelp.Context(t), first))
	h.ready(t, "vendor") // which an hour's wait would not let it be
	close(proceed)
	h.stop()
}

// While Update executes the binary it belongs to its caller: it ends with the caller's
// context, and Run waits for none of it.
func TestTrial19UpdateEndsWithItsContext(t *testing.T) {
	h := newHost(t, fakeWith(t), runtime.WithInstance("vendor"))
	h.run(t)
	h.ready(t, "vendor")
	dir := testhelp.Root(t)
	fifo, path := filepath.Join(dir, "fifo"), filepath.Join(dir, "osqueryd")
	must(t, syscall.Mkfifo(fifo, 0o600))
	// The script is the reader: a writer whose reader has gone may end by SIGPIPE.
	must(t, os.WriteFile(path, []byte(fmt.Sprintf("#!/bin/sh\n: <%s\nexec sleep 1000\n", fifo)), 0o755))
	began := time.Now()
	slow := instance.WithTimeouts(instance.Timeouts{Binary: time.Minute})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := h.Update(ctx, "vendor", instance.WithBinary(path), slow); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Update: %v, want the deadline", err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("Update returned after %v", took)
	}
	h.answers(t, "vendor") // nothing has changed

	ctx, cancel = context.WithCancel(t.Context())
	updated := make(chan error, 1)
	go func() {
		_, err := h.Update(ctx, "vendor", instance.WithBinary(path), slow)
		updated <- err
	}()
	f, err := os.OpenFile(fifo, os.O_WRONLY, 0) // returns when the binary is executed
	must(t, err)
	must(t, f.Close())
	h.stop()
	cancel()
	if err := <-updated; !errors.Is(err, context.Canceled) {
		t.Errorf("Update: %v, want that it was cancelled", err)
	}
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("Run waited for the execution: %v", took)
	}
}
