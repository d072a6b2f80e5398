package plugin

import (
	"sync"
	"time"
)

// DefaultEnrollRate is how many enrolments a minute instances make together unless they are
// given another pace. Servers limit them by address; osctrl, for one, to 20.
const DefaultEnrollRate = 15

// EnrollPace lets a number of enrolments through in any minute: a third of them at once,
// the others evenly spread. It may be shared by any number of extensions.
type EnrollPace struct {
	every time.Duration
	ahead time.Duration // how far next may be ahead of the clock

	mu   sync.Mutex
	next time.Time
}

// NewEnrollPace makes a pace of so many enrolments a minute; less than 1 counts as 1.
func NewEnrollPace(perMinute int) *EnrollPace {
	perMinute = max(1, perMinute)
	burst := max(1, perMinute/3)
	every := time.Minute / time.Duration(max(1, perMinute-burst))
	return &EnrollPace{every: every, ahead: time.Duration(burst-1) * every}
}

// reserve gives the time of the next enrolment that is free, and takes it.
func (p *EnrollPace) reserve(now time.Time) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	at := now
	if free := p.next.Add(-p.ahead); free.After(now) {
		at = free
	}
	if p.next.Before(now) {
		p.next = now
	}
	p.next = p.next.Add(p.every)
	return at
}
