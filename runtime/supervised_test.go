package runtime_test

import (
	"errors"
	"testing"

	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/internal/testhelp"
	"github.com/osqvisor/osqvisor/runtime"
)

// What Runner.Instance returns cannot end or wedge what the Runner supervises.
func TestInstanceOfARunnerIsNotRunOrClosedByOthers(t *testing.T) {
	testhelp.CheckLeaks(t)
	h := newHost(t, fakeWith(t), runtime.WithInstance("a"))
	in, err := h.Instance("a")
	if err != nil {
		t.Fatal(err)
	}
	ctx := testhelp.Context(t)
	refused := func(when string) {
		t.Helper()
		if err := in.Run(ctx); !errors.Is(err, instance.ErrSupervised) {
			t.Errorf("Run %s: %v, want ErrSupervised", when, err)
		}
		if err := in.Close(ctx); !errors.Is(err, instance.ErrSupervised) {
			t.Errorf("Close %s: %v, want ErrSupervised", when, err)
		}
	}
	refused("before the Runner's Run")
	h.run(t)
	h.ready(t, "a")
	pid := h.pid(t, "a")
	refused("during it")
	h.answers(t, "a")
	if h.pid(t, "a") != pid {
		t.Error("osqueryd is another one")
	}
	if err := h.Remove(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	refused("after Remove")
}
