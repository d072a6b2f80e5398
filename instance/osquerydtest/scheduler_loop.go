package osquerydtest

import "time"

// loop runs queries when they are due and relays status lines, each at
// multiples of their interval on a clock that TimeScale makes faster.
func (s *scheduler) loop() {
	s.mu.Lock()
	s.zero, s.zeroUnix = time.Now(), time.Now().Unix()
	s.mu.Unlock()
	last := s.zeroUnix - 1
	for !s.w.p.stopping() {
		now := s.tick()
		for _, q := range s.queries() {
			if s.isDue(q, last, now) && !s.isDenied(q, true) {
				s.launch(q)
			}
			if s.w.p.stopping() {
				return
			}
		}
		if crossed(last, now, 3) {
			s.w.logs.relay()
		}
		last = now
		if !s.waitUntil(s.nextDue(now)) {
			return
		}
	}
}

// tick is the present second of the fast clock.
func (s *scheduler) tick() int64 {
	return s.zeroUnix + int64(time.Since(s.zero)/s.w.p.script.period(time.Second))
}

// crossed says whether a multiple of interval lies in (last, now].
func crossed(last, now, interval int64) bool {
	return interval > 0 && now/interval > last/interval
}

func (s *scheduler) isDue(q *scheduledQuery, last, now int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	first := q.priority != noPriority && !s.started[q.fullName]
	if !first && !crossed(last, now, q.splayed) {
		return false
	}
	s.started[q.fullName] = true
	return true
}

// nextDue is the next second at which there is something to do; 0 is never.
func (s *scheduler) nextDue(now int64) int64 {
	var due int64
	at := func(interval int64) {
		if t := (now/interval + 1) * interval; due == 0 || t < due {
			due = t
		}
	}
	for _, q := range s.queries() {
		at(max(q.splayed, 1))
	}
	if s.w.p.log.pending() {
		at(3)
	}
	return due
}

// waitUntil also ends when the schedule changes; false at a stop.
func (s *scheduler) waitUntil(due int64) bool {
	var timer <-chan time.Time
	if due != 0 {
		unit := s.w.p.script.period(time.Second)
		t := time.NewTimer(time.Until(s.zero.Add(time.Duration(due-s.zeroUnix) * unit)))
		defer t.Stop()
		timer = t.C
	}
	select {
	case <-timer:
	case <-s.wakeup:
	case <-s.w.p.stop:
		return false
	case <-s.w.p.dead:
		return false
	}
	return true
}
