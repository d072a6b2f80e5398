package plugin

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/stats"
)

// registrar is a server that knows each node by its last key alone, and all its clients as one node
// when they are clones.
type registrar struct {
	mu     sync.Mutex
	clones bool
	keys   map[string]string // node → the key that is valid
	times  []time.Time       // of the enrolments
	fail   func() error
	refuse bool // every key
}

func (g *registrar) name(n extension.Node) string {
	if g.clones {
		return "clone"
	}
	return n.Instance
}

func (g *registrar) Enroll(_ context.Context, req extension.EnrollRequest) (string, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.times = append(g.times, time.Now())
	if g.fail != nil {
		if err := g.fail(); err != nil {
			return "", err
		}
	}
	if g.keys == nil {
		g.keys = map[string]string{}
	}
	key := fmt.Sprintf("key-%d", len(g.times))
	g.keys[g.name(req.Node)] = key
	return key, nil
}

func (g *registrar) enrolments() []time.Time {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.times)
}

func (g *registrar) know(n extension.Node) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.refuse || g.keys[g.name(n)] != n.Key {
		return fmt.Errorf("key %q: %w", n.Key, extension.ErrNodeInvalid)
	}
	return nil
}

// transport is what an instance reaches the registrar by.
func (g *registrar) transport() extension.Transport {
	return struct {
		extension.Funcs
		*registrar
	}{extension.Funcs{
		ConfigFunc: func(_ context.Context, n extension.Node) (map[string]string, error) {
			return map[string]string{"main": goodConfig}, g.know(n)
		},
		LogsFunc: func(_ context.Context, n extension.Node, _ extension.Batch) error { return g.know(n) },
	}, g}
}

// most counts the enrolments of the busiest minute.
func most(times []time.Time) (n int) {
	for i := range times {
		in := 0
		for _, at := range times[i:] {
			if at.Sub(times[i]) < time.Minute {
				in++
			}
		}
		n = max(n, in)
	}
	return n
}

func TestTrial23OneEnrolmentARound(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := &registrar{refuse: true}
		r := newRig(t, t.TempDir(), withTransport(g.transport()), withBackoff(10*time.Second, 5*time.Minute))
		r.start()
		for range 600 {
			r.config()
			r.log("string", "{}")
			pass(time.Second)
		}
		times := g.enrolments()
		for i := 1; i < len(times); i++ {
			if gap := times[i].Sub(times[i-1]); gap < 6*time.Second {
				t.Errorf("enrolments %d and %d are %v apart", i, i+1, gap)
			}
		}
		if len(times) < 3 {
			t.Errorf("%d enrolments in ten minutes: it has to try again", len(times))
		}
	})
}

// TestTrial23ClonedMachines: two hosts that enrol as one node take each other's key away.
func TestTrial23ClonedMachines(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := &registrar{clones: true}
		var rigs []*rig
		for range 2 {
			r := newRig(t, t.TempDir(), withTransport(g.transport()))
			r.start()
			rigs = append(rigs, r)
		}
		for range 720 {
			for _, r := range rigs {
				r.config()
				r.log("string", "{}")
			}
			pass(5 * time.Second)
		}
		if n := len(g.enrolments()); n > 30 {
			t.Errorf("%d enrolments in an hour", n)
		}
		if len(eventsOf[stats.TransportFailed](rigs[0])) == 0 {
			t.Error("nothing was announced")
		}
	})
}

// TestTrial23KeyLostOnceIsReplacedAtOnce: the interval is for keys that do not last.
func TestTrial23KeyLostOnceIsReplacedAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := &registrar{}
		r := newRig(t, t.TempDir(), withTransport(g.transport()))
		for range 3 {
			for range 2 { // a server that was restored from a backup, say
				if _, status := r.config(); status.Code != 0 {
					t.Fatal(status.Message)
				}
				g.mu.Lock()
				clear(g.keys)
				g.mu.Unlock()
			}
			pass(2 * time.Hour)
		}
	})
}

// TestTrial23InstancesShareAPace: together they stay below what a server allows an address, each is
// enrolled in the end, and has its config at once when it is.
func TestTrial23InstancesShareAPace(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const n = 30
		g, pace := &registrar{}, NewEnrollPace(DefaultEnrollRate)
		var mu sync.Mutex
		late := map[int]time.Time{}
		served := map[int]time.Time{}
		for i := range n {
			r := newRig(t, t.TempDir(), withTransport(g.transport()), func(s *Settings) { s.Pace = pace },
				withNode(func() extension.Node { return extension.Node{Instance: fmt.Sprint(i)} }),
				withLateConfig(func(map[string]string) {
					mu.Lock()
					defer mu.Unlock()
					late[i] = time.Now()
				}))
			r.start()
			if _, status := r.config(); status.Code == 0 {
				served[i] = time.Now()
			}
		}
		start := time.Now()
		pass(4 * time.Minute)
		synctest.Wait()
		times := g.enrolments()
		if len(times) != n || most(times) > 15 {
			t.Errorf("%d enrolments, %d in one minute", len(times), most(times))
		}
		mu.Lock()
		defer mu.Unlock()
		if len(late)+len(served) != n || len(served) == 0 {
			t.Errorf("%d have their config at once and %d late, of %d", len(served), len(late), n)
		}
		if last := times[len(times)-1].Sub(start); last > 3*time.Minute {
			t.Errorf("the last enrolled after %v", last)
		}
		for i, at := range late {
			if !slices.ContainsFunc(times, func(e time.Time) bool { return !at.Before(e) && at.Sub(e) < time.Second }) {
				t.Errorf("instance %d had its config at %v, long after its enrolment", i, at.Sub(start))
			}
		}
	})
}

// TestTrial23ConfigFollowsALateEnrolment, though osqueryd does not ask for it.
func TestTrial23ConfigFollowsALateEnrolment(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := time.Now().Add(10 * time.Second)
		g := &registrar{fail: func() error {
			if time.Now().Before(up) {
				return errDown
			}
			return nil
		}}
		pushed := make(chan time.Time, 10)
		r := newRig(t, t.TempDir(), withTransport(g.transport()), withBackoff(3*time.Second, 3*time.Second),
			withLateConfig(func(map[string]string) { pushed <- time.Now() }))
		r.start()
		if _, status := r.config(); status.Code != 1 {
			t.Fatalf("answered %d without a node key", status.Code)
		}
		select {
		case at := <-pushed:
			times := g.enrolments()
			if d := at.Sub(times[len(times)-1]); d > time.Second {
				t.Errorf("the config followed %v after the enrolment", d)
			}
		case <-time.After(25 * time.Second):
			t.Error("osqueryd has no config")
		}
	})
}
