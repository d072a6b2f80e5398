package instance_test

import (
	"context"
	"testing"
	"time"

	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/instance/osquerydtest"
	"github.com/osqvisor/osqvisor/stats"
)

// An observer that blocks holds up neither the start, nor queries, nor what only the run
// can do, nor the supervision; and the end of the run for no longer than the option says.
func TestPromise12ObserversAreBounded(t *testing.T) {
	t.Parallel()
	const bound = 10 * time.Second // far above the option
	for name, returns := range map[string]bool{"returns with its context": true, "never returns": false} {
		t.Run(name, func(t *testing.T) {
			release, left := make(chan struct{}), make(chan struct{})
			t.Cleanup(func() { close(release) })
			calls := 0
			hung := stats.ObserverFunc(func(ctx context.Context, _ stats.Event) {
				if calls++; calls > 1 {
					t.Error("the observer is called again, or still")
					return
				}
				if returns {
					<-ctx.Done()
					close(left)
					return
				}
				<-release
			})
			in := newInstance(t, osquerydtest.Start(t, osquerydtest.WithScript(fast)).Path(),
				instance.WithObserver(hung), instance.WithTimeouts(instance.Timeouts{Observers: 200 * time.Millisecond}))
			ctx, cancel := context.WithCancel(patient(t))
			defer cancel()
			done := make(chan error, 1)
			go func() { done <- in.Run(ctx) }()
			if err := in.WaitReady(patient(t)); err != nil {
				t.Fatal(err)
			}
			if err := in.SetTables(patient(t)); err != nil {
				t.Errorf("SetTables: %v", err)
			}
			if _, err := in.Query(patient(t), "select 1"); err != nil {
				t.Errorf("Query: %v", err)
			}
			kill(t, in.PID())
			began := time.Now()
			if err := <-done; err == nil {
				t.Error("the death was not noticed")
			}
			in.Settle(patient(t)) // a run that ended by itself does not
			if took := time.Since(began); took > bound {
				t.Errorf("it took %v", took)
			}
			if s := in.Snapshot(); s.State != stats.StateStopped || len(s.History) != 1 || s.History[0].Cause != stats.CauseSignal {
				t.Errorf("the snapshot lags behind: %+v", s)
			}
			if returns {
				select {
				case <-left: // no callback runs after Settle
				default:
					t.Error("Settle did not wait for an observer that returns with its context")
				}
			}
			nothingLeft(t, in)
			began = time.Now()
			if err := in.Close(patient(t)); (err == nil) != returns || time.Since(began) > bound {
				t.Errorf("Close: %v after %v", err, time.Since(began))
			}
		})
	}
}
