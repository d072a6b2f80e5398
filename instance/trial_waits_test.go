package instance_test

import (
	"context"
	"testing"
	"time"

	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/instance/osquerydtest"
	"github.com/osqvisor/osqvisor/internal/testhelp"
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
	r := startUnready(t, osquerydtest.Start(t).Path(), instance.WithGate(gate), instance.WithKillTimeout(100*time.Millisecond))
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
		instance.WithGate(gate), instance.WithKillTimeout(time.Second))
	close(proceed)
}
