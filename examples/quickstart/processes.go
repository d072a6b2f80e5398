package main

import (
	"sync"

	// A host has no need of this package: it is here to check from outside of the SDK's
	// own bookkeeping that nothing is left, and a pid alone may belong to another by then.
	"github.com/osqvisor/osqvisor/internal/process"
)

// processes remembers every process of osqueryd that was seen.
type processes struct {
	mu   sync.Mutex
	seen map[process.Identity]struct{}
}

// add remembers the process that has the pid now. One that has gone meanwhile needs
// no remembering.
func (p *processes) add(pid int) {
	id, err := process.Identify(pid)
	if err != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.seen == nil {
		p.seen = map[process.Identity]struct{}{}
	}
	p.seen[id] = struct{}{}
}

// count says how many were seen, and how many of them still run.
func (p *processes) count() (seen, alive int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id := range p.seen {
		if id.Alive() {
			alive++
		}
	}
	return len(p.seen), alive
}
