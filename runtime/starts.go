package runtime

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/osqvisor/osqvisor/internal/control"
)

// starts bounds the starts under way. Instances whose last start failed go after all
// others, and have at most half of the places, so that those that cannot start do not hold
// up those that can.
type starts struct {
	limit, sickLimit int

	mu      sync.Mutex
	held    int
	sick    int // of those held
	waiting []*start
}

// start is one that waits, or is under way.
type start struct {
	sick bool
	turn chan struct{} // closed when it may go on
}

func newStarts(limit int) *starts {
	return &starts{limit: limit, sickLimit: max(1, limit/2)}
}

// acquire waits for a place until ctx ends.
func (s *starts) acquire(ctx context.Context, sick bool) (*start, error) {
	st := &start{sick: sick, turn: make(chan struct{})}
	s.mu.Lock()
	s.waiting = append(s.waiting, st)
	s.grant()
	s.mu.Unlock()
	if err := await(ctx, st.turn); err != nil {
		s.giveUp(st)
		return nil, fmt.Errorf("waiting for other instances to start: %w", err)
	}
	return st, nil
}

// giveUp takes it out of the line, or gives back the place that it got in that moment.
func (s *starts) giveUp(st *start) {
	s.mu.Lock()
	i := slices.Index(s.waiting, st)
	if i >= 0 {
		s.waiting = slices.Delete(s.waiting, i, i+1)
	}
	s.mu.Unlock()
	if i < 0 {
		s.release(st)
	}
}

// release is to be called once for each start that acquire returned.
func (s *starts) release(st *start) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held--
	if st.sick {
		s.sick--
	}
	s.grant()
}

// grant is called under the lock.
func (s *starts) grant() {
	for s.held < s.limit {
		i := slices.IndexFunc(s.waiting, func(st *start) bool { return !st.sick })
		if i < 0 && s.sick < s.sickLimit && len(s.waiting) > 0 {
			i = 0
		}
		if i < 0 {
			return
		}
		st := s.waiting[i]
		s.waiting = slices.Delete(s.waiting, i, i+1)
		s.held++
		if st.sick {
			s.sick++
		}
		close(st.turn)
	}
}

// gateOf is the gate of one instance. A start that takes long is waiting for something,
// not working, and lets the next one go.
func (r *Runner) gateOf(id string) control.Gate {
	return func(ctx context.Context) (func(), error) {
		st, err := r.starts.acquire(ctx, r.isSick(id))
		if err != nil {
			return nil, err
		}
		release := sync.OnceFunc(func() { r.starts.release(st) })
		timer := time.AfterFunc(r.o.starts.Turn, release)
		return func() {
			timer.Stop()
			release()
		}, nil
	}
}

// isSick says whether an instance's last start failed.
func (r *Runner) isSick(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	m, ok := r.members[id]
	return ok && m.sick
}
