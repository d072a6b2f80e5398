package main

import (
	"sync"
	"time"
)

// clocks are the clocks of the instances: the system's, until one jumps. It is safe for
// concurrent use.
type clocks struct {
	mu    sync.Mutex
	ahead map[string]time.Duration
}

// of gives an instance's clock.
func (c *clocks) of(id string) func() (time.Time, time.Duration) {
	begin := time.Now()
	return func() (time.Time, time.Duration) {
		now := time.Now()
		c.mu.Lock()
		defer c.mu.Unlock()
		return now.Round(0).Add(c.ahead[id]), now.Sub(begin)
	}
}

// jump moves an instance's wall clock, as a sleep of the machine does.
func (c *clocks) jump(id string, d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ahead == nil {
		c.ahead = map[string]time.Duration{}
	}
	c.ahead[id] += d
}
