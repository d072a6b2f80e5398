package osquerydtest

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"slices"
)

// welcome numbers a new process and remembers it.
func (f *Fake) welcome(conn net.Conn, id identity) *Process {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.started++
	p := &Process{
		fake: f, conn: conn, enc: json.NewEncoder(conn), order: f.started,
		done: make(chan struct{}), pending: make(map[int]chan *message),
	}
	id.Run, id.Worker = 1, 1
	if w := f.watcherOf(id); w != nil {
		w.workers++
		id.Run, id.Worker = w.id.Run, w.workers
	} else {
		f.runs[id.key()]++
		id.Run = f.runs[id.key()]
	}
	p.id = id
	f.live[p] = struct{}{}
	f.touch()
	return p
}

func (f *Fake) watcherOf(id identity) *Process {
	if id.Role != RoleWorker {
		return nil
	}
	for p := range f.live {
		if p.id.PID == id.Watcher && p.id.Role == RoleWatcher {
			return p
		}
	}
	return nil
}

func (f *Fake) hear(p *Process, m *message) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if m.Phase != "" {
		p.reached = append(p.reached, m.Phase)
		if !m.Reached {
			p.phases = append(p.phases, m.Phase)
		}
		f.touch()
	}
	if ch := p.pending[m.ID]; ch != nil {
		delete(p.pending, m.ID)
		ch <- m
	}
}

func (f *Fake) forget(p *Process) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.live, p)
	close(p.done)
	f.touch()
}

// touch wakes those who wait for a change. Call it under mu.
func (f *Fake) touch() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// Processes returns the processes alive now, in the order in which they
// started.
func (f *Fake) Processes() []*Process {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sorted()
}

func (f *Fake) sorted() []*Process {
	out := make([]*Process, 0, len(f.live))
	for p := range f.live {
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b *Process) int { return a.order - b.order })
	return out
}

// Started is how many processes have been started so far: for tests that count
// restarts.
func (f *Fake) Started() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.started
}

// WaitProcess waits until a live process satisfies want, and returns the
// newest that does. It looks again at each start, phase and death of a
// process. want must not block; it may call the methods of its argument that
// take no context.
func (f *Fake) WaitProcess(ctx context.Context, want func(*Process) bool) (*Process, error) {
	for {
		f.mu.Lock()
		changed, live := f.changed, f.sorted()
		f.mu.Unlock()
		for _, p := range slices.Backward(live) {
			if want(p) {
				return p, nil
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("no such fake process among %d: %w", len(live), ctx.Err())
		}
	}
}

// WaitWorker waits for a ready worker (or single process) that has an argument
// containing instance, such as a part of its database path; empty is any. It
// returns the newest.
func (f *Fake) WaitWorker(ctx context.Context, instance string) (*Process, error) {
	p, err := f.WaitProcess(ctx, func(p *Process) bool {
		return p.Role() != RoleWatcher && p.Passed(PhaseReady) && containsArg(p.id.Args, instance)
	})
	if err != nil {
		return nil, fmt.Errorf("wait for a ready worker of %q: %w", instance, err)
	}
	return p, nil
}

// WaitNextWorker is WaitWorker for a worker that started after old.
func (f *Fake) WaitNextWorker(ctx context.Context, instance string, old *Process) (*Process, error) {
	p, err := f.WaitProcess(ctx, func(p *Process) bool {
		return p.order > old.order && p.Role() != RoleWatcher && p.Passed(PhaseReady) && containsArg(p.id.Args, instance)
	})
	if err != nil {
		return nil, fmt.Errorf("wait for the next worker of %q: %w", instance, err)
	}
	return p, nil
}

// WaitIdle waits until no process of the fake is alive.
func (f *Fake) WaitIdle(ctx context.Context) error {
	for {
		f.mu.Lock()
		changed, n := f.changed, len(f.live)
		f.mu.Unlock()
		if n == 0 {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%d fake processes are still alive: %w", n, ctx.Err())
		}
	}
}
