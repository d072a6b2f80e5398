package instance_test

import (
	"context"
	"errors"
	"path/filepath"
	"testing"

	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/instance/osquerydtest"
	"github.com/osqvisor/osqvisor/stats"
)

// newInstance makes one that is closed with the test.
func newInstance(t *testing.T, binary string, opts ...instance.Option) *instance.Instance {
	t.Helper()
	in, err := instance.New("vendor", append([]instance.Option{
		instance.WithBinary(binary), instance.WithRoot(root(t)), instance.WithLogger(testLogger(t)),
	}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := in.Close(patient(t)); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return in
}

// once is a whole run.
func once(t *testing.T, in *instance.Instance) {
	t.Helper()
	ctx, cancel := context.WithCancel(patient(t))
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- in.Run(ctx) }()
	if err := in.WaitReady(patient(t)); err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("a requested stop gave %v, want nil", err)
	}
}

func wantExit(t *testing.T, err error, phase stats.Phase, cause stats.Cause) *instance.ExitError {
	t.Helper()
	var exit *instance.ExitError
	if !errors.As(err, &exit) {
		t.Fatalf("%v is no *ExitError", err)
	}
	if exit.Phase != phase || exit.Cause != cause {
		t.Errorf("phase %q, cause %q; want %q, %q: %v", exit.Phase, exit.Cause, phase, cause, err)
	}
	if exit.Hint == "" {
		t.Errorf("no hint: %v", err)
	}
	return exit
}

func TestOneRunAtATime(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, binary string) {
		r := start(t, binary)
		if err := r.Run(patient(t)); !errors.Is(err, instance.ErrRunning) {
			t.Errorf("a second Run gave %v, want ErrRunning", err)
		}
		if err := r.Close(patient(t)); !errors.Is(err, instance.ErrRunning) {
			t.Errorf("Close during Run gave %v, want ErrRunning", err)
		}
		r.stop()
		if err := r.wait(t); err != nil {
			t.Fatal(err)
		}
		once(t, r.Instance)
		if n := len(r.Snapshot().History); n != 2 {
			t.Errorf("%d runs are told of, want 2", n)
		}
	})
}

func TestClosed(t *testing.T) {
	t.Parallel()
	in := newInstance(t, osquerydtest.Start(t, osquerydtest.WithScript(fast)).Path())
	if _, err := in.Query(patient(t), "select 1"); !errors.Is(err, instance.ErrNotRunning) {
		t.Errorf("a query before any run gave %v, want ErrNotRunning", err)
	}
	waiting := make(chan error, 2)
	go func() { waiting <- in.WaitReady(patient(t)) }()
	for range 2 {
		if err := in.Close(patient(t)); err != nil {
			t.Fatal(err)
		}
	}
	calls := map[string]func() error{
		"waiting":   func() error { return <-waiting },
		"WaitReady": func() error { return in.WaitReady(patient(t)) },
		"Run":       func() error { return in.Run(patient(t)) },
		"Ship":      func() error { return in.Ship(patient(t)) },
		"Query":     func() error { _, err := in.Query(patient(t), "select 1"); return err },
	}
	for name, call := range calls {
		if err := call(); !errors.Is(err, instance.ErrClosed) {
			t.Errorf("%s after Close gave %v, want ErrClosed", name, err)
		}
	}
	if err := in.PushConfig(patient(t)); err == nil {
		t.Error("PushConfig after Close succeeded")
	}
	if err := in.Health(patient(t)); !errors.Is(err, instance.ErrNotRunning) {
		t.Errorf("Health after Close gave %v", err)
	}
}

// What waits for an answer learns of the end at once, whoever ended the run.
func TestQueriesEndWithTheRun(t *testing.T) {
	t.Parallel()
	fake := osquerydtest.Start(t, osquerydtest.WithScript(fast))
	in := newInstance(t, fake.Path(), instance.WithDiagnostics(instance.Diagnostics{History: 2}))
	exits := osquerydtest.Rule{Phase: osquerydtest.PhaseStart, Action: osquerydtest.Action{Do: osquerydtest.Exit, Code: 1}}
	if err := fake.SetScript(fast.WithRule(exits)); err != nil {
		t.Fatal(err)
	}
	_ = wantExit(t, in.Run(patient(t)), stats.PhaseConnect, stats.CauseExit)
	if _, err := in.Query(patient(t), "select 1"); !errors.Is(err, instance.ErrNotRunning) {
		t.Errorf("a query after a failed run gave %v, want ErrNotRunning", err)
	}
}

// Two instances may be made for one directory, as an update does, but only one at
// a time may use it.
func TestOneDirectoryTwoInstances(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, binary string) {
		dir := root(t)
		first := start(t, binary, instance.WithRoot(dir))
		second := newInstance(t, binary, instance.WithRoot(dir), instance.WithPredecessor(first.Instance))
		e := wantExit(t, second.Run(patient(t)), stats.PhasePrepare, stats.CauseDirectory)
		wantTexts(t, e.Error(), filepath.Join(dir, "vendor"), "in use")
		if err := second.Ship(patient(t)); err == nil {
			t.Error("a second instance ships from the same directory")
		}
		if _, err := first.Query(patient(t), "select 1"); err != nil {
			t.Errorf("the first instance was disturbed: %v", err)
		}
		first.stop()
		if err := first.wait(t); err != nil {
			t.Fatal(err)
		}
		once(t, second)
		if n := len(second.Snapshot().History); n != 3 {
			t.Errorf("the successor tells of %d runs, want 3", n)
		}
	})
}

// Ship holds the directory between runs, lets a run ship for itself, and takes over again.
func TestShipTakesTurns(t *testing.T) {
	t.Parallel()
	in := newInstance(t, osquerydtest.Start(t, osquerydtest.WithScript(fast)).Path())
	ctx, cancel := context.WithCancel(patient(t))
	done := make(chan error, 2)
	for range 2 {
		go func() { done <- in.Ship(ctx) }()
	}
	once(t, in)
	if err := in.Close(patient(t)); err != nil && !errors.Is(err, instance.ErrRunning) {
		t.Error(err)
	}
	cancel()
	for range 2 {
		if err := <-done; err != nil && !errors.Is(err, instance.ErrClosed) {
			t.Errorf("Ship gave %v", err)
		}
	}
}
