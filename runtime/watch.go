package runtime

import (
	"context"
	"time"

	"github.com/osqvisor/osqvisor/internal/control"
	"github.com/osqvisor/osqvisor/stats"
)

const (
	lookEvery   = time.Second // at what may stand in the way of an instance that waits
	lookTimeout = time.Second // a file system may hang
	littleRoom  = 64 << 20    // bytes, below which a file system counts as full
	moreRoom    = 16 << 20    // bytes, by which it has room again
)

// watch notices, while an instance waits for its next start, that what may have kept it
// from starting has changed. A change of the binary is believed when two looks found the
// same, since copying one takes time.
type watch struct {
	s      *supervisor
	timer  *time.Timer // nil when nothing is looked at
	before control.Conditions
	last   control.Conditions
}

// newWatch compares with the binary as it was before the run that failed, and with the
// room that is left now.
func (s *supervisor) newWatch(ctx context.Context, on bool) *watch {
	w := &watch{s: s}
	if on {
		w.last = s.look(ctx)
		w.before = control.Conditions{Binary: s.found.Binary, Free: w.last.Free}
		w.timer = time.NewTimer(untilLook(time.Now()))
	}
	return w
}

// untilLook ends at a moment that all instances have in common, so that many of them wake
// the host once.
func untilLook(now time.Time) time.Duration {
	return now.Truncate(lookEvery).Add(lookEvery).Sub(now)
}

func (w *watch) due() <-chan time.Time {
	if w.timer == nil {
		return nil
	}
	return w.timer.C
}

func (w *watch) stop() {
	if w.timer != nil {
		w.timer.Stop()
	}
}

// look returns what has changed, or nothing.
func (w *watch) look(ctx context.Context) stats.ResumeReason {
	now := w.s.look(ctx)
	w.timer.Reset(untilLook(time.Now()))
	last := w.last
	w.last = now
	switch {
	case now.Binary != "" && now.Binary != w.before.Binary && now.Binary == last.Binary:
		return stats.ResumedByBinary
	case w.before.Free >= 0 && w.before.Free < littleRoom && now.Free >= w.before.Free+moreRoom:
		return stats.ResumedByRoom
	}
	return ""
}

// look finds nothing when the disk does not answer.
func (s *supervisor) look(ctx context.Context) control.Conditions {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	c, err := s.in.Conditions(ctx)
	if err != nil {
		return control.Conditions{Free: -1}
	}
	return c
}
