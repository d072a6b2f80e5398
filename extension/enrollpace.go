package extension

import (
	"sync"
	"time"
)

// Enrolment limits how often an instance enrols. A field that is zero changes nothing.
type Enrolment struct {
	// Interval is the least time from one enrolment to the next when the server refuses
	// keys soon after it gave them out, as it does to two hosts that enrol as one node. It
	// doubles up to 16 times as much while that goes on. The first key that is refused
	// within an hour is replaced at once. From 1 s to 1 h; the default is 1 minute.
	Interval time.Duration
	// Pace limits all instances that are given the same one. Without it an instance has
	// one of its own; those of a runtime.Runner have one together. Both are of
	// [DefaultEnrollRate].
	Pace *EnrollPace
}

// WithEnrolment limits how often the instance enrols.
func WithEnrolment(e Enrolment) Option {
	return optionFunc(func(s *settings) {
		if e.Interval != 0 {
			s.enrolment.Interval = e.Interval
			if e.Interval < time.Second || e.Interval > time.Hour {
				s.reject("WithEnrolment", "an interval of %v is not between 1s and 1h", e.Interval)
			}
		}
		if e.Pace != nil {
			s.enrolment.Pace = e.Pace
		}
	})
}

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
