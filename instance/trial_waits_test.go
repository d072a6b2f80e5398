package instance_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/instance/osquerydtest"
	"github.com/osqvisor/osqvisor/internal/testhelp"
	"github.com/osqvisor/osqvisor/stats"
)

// The place that a gate gives too late goes back.
func TestTrial19GateThatIgnoresItsContext(t *testing.T) {
	testhelp.CheckLeaks(t)
	asked, proceed, back := make(chan struct{}), make(chan struct{}), make(chan struct{})
	gate := func(context.Context) (func(), error) {
		close(asked)
		<-proceed
		return func() { close(back) }, nil
	}
	r := startUnready(t, osquerydtest.Start(t).Path(), instance.WithGate(gate),
		instance.WithTimeouts(instance.Timeouts{Stop: 500 * time.Millisecond}))
	<-asked
	r.stop()
	if err := r.wait(t); err != nil {
		t.Errorf("a run that was asked to end: %v", err)
	}
	close(proceed)
	select {
	case <-back:
	case <-time.After(patience):
		t.Error("the place was not given back")
	}
}

func TestTrial19GateThatTakesNothingBack(t *testing.T) {
	testhelp.CheckLeaks(t)
	proceed := make(chan struct{})
	gate := func(context.Context) (func(), error) { return func() { <-proceed }, nil }
	start(t, osquerydtest.Start(t, osquerydtest.WithScript(fast)).Path(),
		instance.WithGate(gate), instance.WithTimeouts(instance.Timeouts{Stop: 5 * time.Second}))
	close(proceed)
}

// disk is a file system that a test freezes.
type disk struct {
	mu   sync.Mutex
	thaw chan struct{} // nil unless it is frozen
}

func (d *disk) freeze() (thaw func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := make(chan struct{})
	d.thaw = c
	return sync.OnceFunc(func() {
		d.mu.Lock()
		d.thaw = nil
		d.mu.Unlock()
		close(c)
	})
}

func (d *disk) touch(string) {
	d.mu.Lock()
	c := d.thaw
	d.mu.Unlock()
	if c != nil {
		<-c
	}
}

// onDisk is an instance on such a disk.
func onDisk(t *testing.T, d *disk, opts ...instance.Option) []instance.Option {
	t.Helper()
	return append([]instance.Option{
		instance.WithDiskHook(d.touch), instance.WithTimeouts(instance.Timeouts{Stop: 2500 * time.Millisecond, Disk: time.Second}),
	}, opts...)
}

// A frozen file system holds up neither the end of a run nor Close; what was left is done
// when it thaws, before the next run touches anything.
func TestTrial19FrozenDiskHoldsUpNoEnd(t *testing.T) {
	testhelp.CheckLeaks(t)
	var d disk
	binary, dir := osquerydtest.Start(t, osquerydtest.WithScript(fast)).Path(), root(t)
	opts := onDisk(t, &d, instance.WithBinary(binary), instance.WithRoot(dir))
	r := start(t, binary, opts...)
	thaw := d.freeze()
	defer thaw()
	began := time.Now()
	r.stop()
	if err := r.wait(t); err != nil {
		t.Errorf("a run that was asked to end: %v", err)
	}
	if err := r.Close(patient(t)); err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("Close on a frozen file system: %v", err)
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("it took %v", took)
	}
	pidfile := filepath.Join(r.Directory(), "osqueryd.pid")
	thaw()
	start(t, binary, opts...) // it gets the lock, which was given back
	if text, err := os.ReadFile(pidfile); err != nil || len(text) == 0 {
		t.Errorf("what was left to do took the new run's pidfile away: %q, %v", text, err)
	}
}

// A start on a frozen file system fails, and can be stopped at any time.
func TestTrial19FrozenDiskFailsTheStart(t *testing.T) {
	testhelp.CheckLeaks(t)
	var d disk
	binary := osquerydtest.Start(t, osquerydtest.WithScript(fast)).Path()
	in, err := instance.New("vendor", onDisk(t, &d, instance.WithBinary(binary), instance.WithRoot(root(t)))...)
	if err != nil {
		t.Fatal(err)
	}
	thaw := d.freeze()
	defer thaw()
	var exit *instance.ExitError
	if err := in.Run(patient(t)); !errors.As(err, &exit) || exit.Cause != stats.CauseDirectory {
		t.Errorf("a start on a frozen file system: %v, want the cause %q", err, stats.CauseDirectory)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := in.Run(ctx); err != nil {
		t.Errorf("a run that was asked to end: %v", err)
	}
	if _, err := instance.New("other", onDisk(t, &d, instance.WithBinary(binary), instance.WithRoot(root(t)),
		instance.WithTimeouts(instance.Timeouts{Stop: 2500 * time.Millisecond, Disk: time.Second, Binary: time.Second}))...); err == nil {
		t.Error("New on a frozen file system succeeded")
	}
	thaw()
	ctx, cancel = context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- in.Run(ctx) }()
	if err := in.WaitReady(patient(t)); err != nil {
		t.Errorf("after the thaw: %v", err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := in.Close(patient(t)); err != nil {
		t.Error(err)
	}
}

// Wherever in a run the file system hangs, who asks the run to end has it back, and
// nothing is left once the file system answers again.
func TestTrial19DiskThatHangsAtOneStep(t *testing.T) {
	for _, step := range []string{
		"opening it", "reading the lease", "making directories", "starting osqueryd", "writing the lease", "listening",
		"looking for the socket", "removing the lease", "removing files", "closing it",
	} {
		t.Run(step, func(t *testing.T) {
			testhelp.CheckLeaks(t)
			hung, thaw := make(chan struct{}), make(chan struct{})
			first := sync.OnceFunc(func() {
				close(hung)
				<-thaw
			})
			hook := func(what string) {
				if what == step {
					first()
				}
			}
			in := newInstance(t, osquerydtest.Start(t, osquerydtest.WithScript(fast)).Path(), instance.WithDiskHook(hook),
				instance.WithTimeouts(instance.Timeouts{Stop: 1500 * time.Millisecond, Disk: time.Minute}),
				instance.WithHealth(instance.Health{
					Interval: 20 * time.Millisecond, Timeout: time.Minute,
				}))
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			done := make(chan error, 1)
			go func() { done <- in.Run(ctx) }()
			if step == "removing the lease" || step == "removing files" || step == "closing it" {
				if err := in.WaitReady(patient(t)); err != nil {
					t.Fatal(err)
				}
				cancel()
			}
			<-hung
			cancel()
			began := time.Now()
			if err := <-done; err != nil {
				t.Errorf("a run that was asked to end: %v", err)
			}
			if took := time.Since(began); took > 20*time.Second {
				t.Errorf("it took %v", took)
			}
			close(thaw)
			ctx, cancel = context.WithCancel(t.Context())
			defer cancel()
			go func() { done <- in.Run(ctx) }()
			if err := in.WaitReady(patient(t)); err != nil {
				t.Errorf("the next run: %v", err)
			}
			cancel()
			if err := <-done; err != nil {
				t.Errorf("the end of the next run: %v", err)
			}
			nothingLeft(t, in)
		})
	}
}
