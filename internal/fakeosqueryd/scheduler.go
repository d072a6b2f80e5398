package fakeosqueryd

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	keyExecuting = "executing_query"
	keyDenylist  = "failed_queries"
	denyFor      = 86400 // seconds
)

// scheduler runs the schedule. Instead of looking each second, as osqueryd
// does, it sleeps until the next query is due.
type scheduler struct {
	w       *worker
	running sync.Mutex // one scheduled query at a time
	wakeup  chan struct{}

	mu       sync.Mutex
	denied   map[string]int64 // until, in Unix seconds
	told     map[string]bool  // denied queries whose skipping was logged
	started  map[string]bool  // run at least once, for startup_priority
	zeroUnix int64
	zero     time.Time
}

func newScheduler(w *worker) *scheduler {
	s := &scheduler{
		w: w, wakeup: make(chan struct{}, 1), denied: map[string]int64{}, told: map[string]bool{}, started: map[string]bool{},
	}
	w.p.log.notify(s.wake)
	return s
}

// wake makes the loop look again; it never blocks.
func (s *scheduler) wake() {
	select {
	case s.wakeup <- struct{}{}:
	default:
	}
}

// restore reads the denylist and adds the query during which the last worker
// died.
func (s *scheduler) restore() {
	db, log := s.w.db, s.w.p.log
	raw, _ := db.get(domainSettings, keyDenylist)
	parts := strings.Split(raw, ":")
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := 0; i+1 < len(parts) && len(parts)%2 == 0; i += 2 {
		if until, err := strconv.ParseInt(parts[i+1], 10, 64); err == nil && until > time.Now().Unix() {
			s.denied[parts[i]] = until
		}
	}
	failed, _ := db.get(domainSettings, keyExecuting)
	if failed == "" {
		return
	}
	log.warn("config.cpp:283", "Scheduled query may have failed: %s", failed)
	_ = db.put(domainSettings, keyExecuting, "")
	if !s.w.p.flags.bool("disable_watchdog") {
		s.denied[failed] = time.Now().Unix() + denyFor
		s.saveDenied()
	}
}

func (s *scheduler) saveDenied() {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(s.denied)) {
		parts = append(parts, name, strconv.FormatInt(s.denied[name], 10))
	}
	_ = s.w.db.put(domainSettings, keyDenylist, strings.Join(parts, ":"))
}

// isDenied looks at the denylist, and lets entries expire.
func (s *scheduler) isDenied(q *scheduledQuery, skipping bool) bool {
	log := s.w.p.log
	s.mu.Lock()
	until, listed := s.denied[q.fullName]
	expired := listed && (time.Now().Unix() > until || !q.denylist)
	if expired {
		delete(s.denied, q.fullName)
		delete(s.told, q.fullName)
		s.saveDenied()
	}
	tell := listed && !expired && skipping && !s.told[q.fullName]
	if tell {
		s.told[q.fullName] = true
	}
	s.mu.Unlock()
	if expired {
		log.info("config.cpp:494", "Scheduled denylisted query has expired: %s", q.fullName)
	}
	if tell {
		log.warn("config.cpp:510", "The caller does not want denied queries, skipping denied scheduled query: %s", q.fullName)
	}
	return listed && !expired
}

// describe lists the schedule for osquery_schedule, denied queries included.
func (s *scheduler) describe() []scheduledQuery {
	var out []scheduledQuery
	for _, q := range s.queries() {
		c := *q
		c.denylisted = s.isDenied(q, false)
		out = append(out, c)
	}
	return out
}

func (s *scheduler) queries() []*scheduledQuery {
	var out []*scheduledQuery
	for _, p := range s.w.config.packList() {
		if p.active {
			out = append(out, p.queries...)
		}
	}
	return out
}

// performance is what osquery_schedule shows of a query.
type performance struct {
	Executions   int64 `json:"executions"`
	LastExecuted int64 `json:"last_executed"`
	WallMS       int64 `json:"wall_ms"`
	LastWallMS   int64 `json:"last_wall_ms"`
	OutputSize   int64 `json:"output_size"`
}

func (s *scheduler) performance(name string) performance {
	var p performance
	raw, _ := s.w.db.get(domainPerformance, name)
	_ = json.Unmarshal([]byte(raw), &p) // nothing yet: zeros
	return p
}

func (s *scheduler) record(name string, took time.Duration, size int64) {
	p := s.performance(name)
	p.Executions++
	p.LastExecuted = time.Now().Unix()
	p.LastWallMS = took.Milliseconds()
	p.WallMS += p.LastWallMS
	p.OutputSize += size
	_ = s.w.db.put(domainPerformance, name, encode(p))
}

// launch runs one query and logs its results.
func (s *scheduler) launch(q *scheduledQuery) {
	s.running.Lock()
	defer s.running.Unlock()
	w, name := s.w, q.fullName
	w.count.scheduled.Add(1)
	if w.p.flags.bool("schedule_lognames") {
		w.p.log.info("scheduler.cpp:116", "Executing scheduled query %s", name)
	}
	_ = w.db.put(domainSettings, keyExecuting, name, "timestamp."+name, strconv.FormatInt(time.Now().Unix(), 10))
	begin := time.Now()
	w.p.at(PhaseScheduled, name+" "+q.Query)
	got, err := w.sql.query(q.Query)
	if !w.p.limitHit.Load() && !isClosed(w.p.dead) {
		_ = w.db.put(domainSettings, keyExecuting, "")
	}
	if err != nil {
		w.p.log.error("scheduler.cpp:122", "Error executing scheduled query %s: %s", name, err)
		return
	}
	s.record(name, time.Since(begin), sizeOf(got))
	if err := s.log(q, got); err != nil {
		w.failLogging(name, err)
	}
}

func (s *scheduler) log(q *scheduledQuery, got rows) error {
	w := s.w
	epoch := w.p.flags.num("schedule_epoch")
	it, changed := logItem{snapshot: got, epoch: epoch}, true
	if !q.snapshot {
		it, changed = w.differential(q, got, epoch)
	}
	if !q.removed {
		it.removed = nil
	}
	if !changed || (!q.snapshot && len(it.added)+len(it.removed) == 0 && it.counter != 0) {
		return nil
	}
	it.name, it.host, it.time = q.fullName, w.hostIdentifier(), time.Now()
	it.numerics, it.topLevel = w.p.flags.bool("logger_numerics"), w.p.flags.bool("decorations_top_level")
	it.decor = w.config.decorations()
	if it.numerics {
		it.columns, _ = w.sql.columns(q.Query) // unknown ones stay text
	}
	if q.snapshot {
		return w.logs.snapshot(it)
	}
	return w.logs.results(it)
}

func sizeOf(list rows) int64 {
	var n int
	for _, r := range list {
		for k, v := range r {
			n += len(k) + len(v)
		}
	}
	return int64(n)
}

// runNow runs the queries of these names, or all that are not denied.
func (s *scheduler) runNow(names []string) error {
	found := 0
	for _, q := range s.queries() {
		if len(names) > 0 && !slices.Contains(names, q.fullName) {
			continue
		}
		found++
		if !s.isDenied(q, true) && !s.w.p.stopping() {
			s.launch(q)
		}
	}
	if found < len(names) {
		return fmt.Errorf("%d of the queries %v are not scheduled", len(names)-found, names)
	}
	return nil
}

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
	return s.zeroUnix + int64(time.Since(s.zero)/s.w.p.conf.period(time.Second))
}

// crossed reports whether a multiple of interval lies in (last, now].
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
		unit := s.w.p.conf.period(time.Second)
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
