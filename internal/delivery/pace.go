package delivery

import "time"

// minBatchBytes is the least that a slow link is reduced to.
const minBatchBytes = 16 << 10

// maxPatience is how many times the transport's timeout a batch can get.
const maxPatience = 8

// pace adapts to the link: how big the next batch is, and how long the one under
// way may take. A batch that was sent is never cut smaller, because its id must
// stay the same; so it gets more time, and the ones after it are smaller.
type pace struct {
	max      int // bytes of a batch, as far as the server takes them
	target   int // bytes of the next batch
	timeout  time.Duration
	patience int // multiple of timeout for the batch under way
}

func newPace(maxBytes int, timeout time.Duration) pace {
	return pace{max: maxBytes, target: maxBytes, timeout: timeout, patience: 1}
}

// limit is how long the batch under way may take.
func (p *pace) limit() time.Duration { return time.Duration(p.patience) * p.timeout }

// delivered learns from a batch that took d.
func (p *pace) delivered(d time.Duration) {
	p.patience = 1
	switch {
	case d > p.timeout/2:
		p.shrink()
	case d < p.timeout/8:
		p.target = min(p.max, p.target*2)
	}
}

// timedOut learns from a batch that took too long.
func (p *pace) timedOut() {
	p.patience = min(maxPatience, p.patience*2)
	p.shrink()
}

// tooLarge learns from a batch of so many bytes that the server did not take because of its
// size: no later one is as big.
func (p *pace) tooLarge(bytes int) {
	p.max = max(min(p.max, minBatchBytes), min(p.max, bytes/2))
	p.target = min(p.target, p.max)
}

func (p *pace) shrink() { p.target = max(min(p.max, minBatchBytes), p.target/2) }
