package instance

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/osqvisor/osqvisor/internal/process"
	"github.com/osqvisor/osqvisor/stats"
)

// A want of resources makes everything fail, and is told before what failed by it.
func TestTrial14WantOfResources(t *testing.T) {
	for _, want := range wants() {
		for _, by := range []error{errLeftover, errDirectory, errStartTimeout, ErrBinaryUnusable, errors.New("any")} {
			err := fmt.Errorf("%w: %w", by, want)
			if got := causeFromError(err); got != stats.CauseResources {
				t.Errorf("%v: cause %q", err, got)
			}
		}
	}
	if got := causeFromError(&process.StartError{Kind: process.ErrResources}); got != stats.CauseResources {
		t.Errorf("no process left: cause %q", got)
	}
}

// A logger that osqueryd had to wait for is remembered for a while.
func TestTrial14StuckLogger(t *testing.T) {
	var l loggerCalls
	now := time.Now()
	end := l.begin()
	if l.stuck(now) {
		t.Error("stuck at once")
	}
	if !l.stuck(now.Add(2 * slowLogger)) {
		t.Error("a call that does not end is not stuck")
	}
	if end(); l.stuck(now.Add(2 * slowLogger)) {
		t.Error("a call that ended is stuck")
	}
}
