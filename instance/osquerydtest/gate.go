package osquerydtest

import "sync"

// gateMode says what hangs.
type gateMode int

const (
	gateOpen  gateMode = iota
	gateCalls          // everything but pings
	gateAll
)

// gate holds callers back while the fake hangs.
type gate struct {
	mu      sync.Mutex
	mode    gateMode
	changed chan struct{}
}

func (g *gate) init() { g.changed = make(chan struct{}) }

func (g *gate) set(m gateMode) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.mode = m
	close(g.changed)
	g.changed = make(chan struct{})
}

// wait blocks while the mode is at least as strict as from. Only the end of the
// process ends the wait otherwise: a hung process is not stopped gently.
func (g *gate) wait(from gateMode, dead <-chan struct{}) {
	for {
		g.mu.Lock()
		mode, changed := g.mode, g.changed
		g.mu.Unlock()
		if mode < from {
			return
		}
		select {
		case <-changed:
		case <-dead:
			return
		}
	}
}
