// Package delivery keeps an instance's log lines and distributed results in queues on disk, and delivers
// them: each queue on its own, in order, with ids that stay; what is given up is counted, announced
// and kept as a dead letter.
package delivery

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/internal/guard"
	"github.com/osqvisor/osqvisor/internal/record"
	"github.com/osqvisor/osqvisor/internal/spool"
	"github.com/osqvisor/osqvisor/stats"
)

// Shipper moves the lines of one queue to the transport: in order, one batch at a
// time, each with an id that stays.
type Shipper struct {
	Set       Settings
	Store     Store
	dead      *DeadLetters // nil: nothing is kept
	doubtFile string       // where the case against a batch is kept; empty: nowhere
	results   *resultQueue // how distributed results are delivered; nil for logs
	signing   guard.Slot   // one call of the signer at a time

	limits atomic.Pointer[extension.Logs] // what is in force of Set.Logs; see SetLogs

	// Hot path: how much waits, and when to wake the dispatcher.
	lines, bytes atomic.Int64
	wakeAtNext   atomic.Bool // wake at the next line
	fullReported atomic.Bool // a full batch was reported
	discarding   atomic.Bool // the transport takes no such lines
	underWay     atomic.Bool // a batch is under way

	busy  guard.Slot // who has it owns the fields below
	state struct {
		logs    *extension.Logs // what the fields here are made for; see renew
		flight  *extension.Batch
		resign  bool   // flight has the signature of former settings
		settled bool   // flight is dealt with and only has to be acknowledged
		covers  uint64 // see covers; of flight
		pace    pace
		backoff *backoff.ExponentialBackOff
		doubt   doubt
		// recalled is true when what an earlier process wrote down of doubt was read.
		recalled bool
	}

	mu        sync.Mutex
	oldest    time.Time // when the oldest waiting line came; zero: long ago
	notBefore time.Time // backoff, rate or the server's wish
	asked     time.Time // the server's wish alone
	ages      ages
}

// ages remembers how many lines there had been at some moments, which shows how old the
// oldest is that waits. The shipper's mu guards it.
type ages []ageMark

// ageMark is a moment at which after was the number of the newest line.
type ageMark struct {
	after uint64
	at    time.Time
}

// maxAges bounds how many moments are remembered.
const maxAges = 256

// note remembers the moment.
func (a *ages) note(now time.Time, newest uint64) {
	n := len(*a)
	if n > 0 && (*a)[n-1].after >= newest {
		(*a)[n-1].at = now // nothing came since
		return
	}
	if n == maxAges { // keep every second one
		for i := range n / 2 {
			(*a)[i] = (*a)[2*i]
		}
		*a = (*a)[:n/2]
	}
	*a = append(*a, ageMark{newest, now})
}

// since returns a moment before which the line had not come, and forgets what is earlier.
func (a *ages) since(line uint64) time.Time {
	for len(*a) > 1 && (*a)[1].after < line {
		*a = (*a)[1:]
	}
	if len(*a) == 0 {
		return time.Time{}
	}
	return (*a)[0].at
}

// Settings is what a shipper is made of.
type Settings struct {
	Name extension.Queue
	Call string // the transport's call, as events name it
	Dir  string // the instance's
	// Logs is complete: no field is zero that has a default. Open and New read it; later, SetLogs
	// may have replaced a part of it.
	Logs     extension.Logs
	Deferred bool // the queue is opened by open
	Discard  bool // there is nobody to deliver to
	Budget   *Budget
	Node     func() (extension.Node, error)
	Form     func(extension.Node, [][]byte) [][]byte // what the lines are sent as, one for one; nil: as they are
	Send     func(context.Context, extension.Batch) error
	Results  *Results // of the queue of distributed results, in place of send
	// elsewhere returns when another call of the transport last succeeded; nil stands for never.
	Elsewhere func() time.Time

	Announcer *guard.Announcer
	Counters  *record.Counters
	Drops     *Drops
	Wake      func()
	Tasks     *guard.Tasks
}

var errLineTooLong = errors.New("it is longer than the limit of a line")

// Open makes the shipper of a queue, and opens the queue unless that is deferred.
func Open(set Settings) (*Shipper, error) {
	if set.Results != nil {
		oneByOne(&set.Logs)
		set.Logs.LineLimit = maxDistributed(set.Logs.QueueBytes)
	}
	known := &damages{}
	q := &lazyQueue{
		fresh: func() bool { return set.Deferred && neverQueued(set.Dir, set.Name) },
		open: func() (Store, error) {
			q, found, err := openQueue(set.Dir, set.Name, spoolOptions(&set, func(l spool.Loss) {
				known.noted(l)
				set.lost(l)
			}))
			if err == nil {
				set.recovered(found, known)
			}
			return q, err
		},
	}
	if !set.Deferred {
		if err := q.reopen(); err != nil {
			return nil, err
		}
	}
	s := New(q, set)
	s.doubtFile = doubtPath(set.Dir, set.Name)
	s.keepDead(set.Logs.DeadLetterBytes)
	if set.Results != nil {
		s.results = newResultQueue(s, set.Dir)
		s.results.restore()
	}
	return s, nil
}

// oneByOne makes settings of logs those of distributed results: each write goes alone and at once.
func oneByOne(l *extension.Logs) {
	l.BatchLines, l.BatchBytes, l.BatchAge, l.BackfillRate, l.Signer = 1, 1, 0, 0, nil
}

// SetLogs replaces the settings, which are complete, from the next line and the next try on; a wait
// that has begun is not cut short. What the queue was opened with stays: QueueBytes, LineLimit,
// WhenFull, Sync and RawEvents. It never waits.
func (s *Shipper) SetLogs(l extension.Logs) {
	if s.Set.Results != nil {
		oneByOne(&l)
	}
	opened := &s.Set.Logs
	l.QueueBytes, l.LineLimit, l.WhenFull = opened.QueueBytes, opened.LineLimit, opened.WhenFull
	l.Sync, l.RawEvents = opened.Sync, opened.RawEvents
	s.limits.Store(&l)
	s.fullReported.Store(false)
	s.Set.Wake()
}

// logs returns the settings in force, which must not be changed.
func (s *Shipper) logs() *extension.Logs { return s.limits.Load() }

// renew brings what was made for former settings up to date. The caller holds s.busy.
func (s *Shipper) renew() {
	old, now := s.state.logs, s.logs()
	if old == now {
		return
	}
	s.state.logs = now
	s.state.resign = s.state.flight != nil
	if now.DeadLetterBytes != old.DeadLetterBytes {
		s.keepDead(now.DeadLetterBytes)
	}
	s.state.pace.timeout = now.Delivery.Timeout
	if now.BatchBytes != old.BatchBytes {
		s.state.pace.max, s.state.pace.target = now.BatchBytes, now.BatchBytes
	}
	if SameWaits(old.Delivery, now.Delivery) {
		return
	}
	s.state.backoff = NewBackoff(now.Delivery.FirstWait, now.Delivery.LongestWait)
	if s.results != nil {
		s.results.backoff = resultBackoff(now.Delivery)
	}
}

// SameWaits reports whether the waits between tries are the same.
func SameWaits(a, b extension.Delivery) bool {
	return a.FirstWait == b.FirstWait && a.LongestWait == b.LongestWait
}

// keepDead sets how many bytes of dead letters are kept.
func (s *Shipper) keepDead(limit int64) {
	s.dead = nil
	if limit > 0 {
		s.dead = NewDeadLetters(s.Set.Dir, s.Set.Name, limit)
	}
}

// maxDistributed bounds one write of distributed results that is kept on disk.
func maxDistributed(queueBytes int64) int { return int(min(32<<20, queueBytes/4)) }

// New makes the shipper of a store.
func New(q Store, set Settings) *Shipper {
	if set.Elsewhere == nil {
		set.Elsewhere = func() time.Time { return time.Time{} }
	}
	s := &Shipper{Set: set, Store: q, busy: guard.NewSlot(), signing: guard.NewSlot()}
	s.limits.Store(&s.Set.Logs)
	s.state.logs = s.logs()
	s.state.pace = newPace(set.Logs.BatchBytes, set.Logs.Delivery.Timeout)
	s.state.backoff = NewBackoff(set.Logs.Delivery.FirstWait, set.Logs.Delivery.LongestWait)
	st := q.Stats()
	s.lines.Store(int64(st.Records))
	s.bytes.Store(max(0, st.Bytes))
	s.underWay.Store(st.Pinned > st.Acked)
	s.wakeAtNext.Store(st.Records == 0)
	s.discarding.Store(set.Discard)
	s.ages.note(time.Now(), max(st.Acked, st.Evicted))
	return s
}

// recovered announces what the opening of a queue found.
func (s *Settings) recovered(found spool.Recovery, known *damages) {
	if known.unheard(found) {
		s.Drops.Defer(func(h stats.Head) stats.Event {
			return stats.QueueDamaged{
				Head: h, Queue: string(s.Name), Bytes: found.CutBytes + found.DamagedBytes,
				Missing: found.Missing, CursorLost: found.CursorLost,
			}
		})
		s.Wake()
	}
	s.lost(spool.Loss{Reason: spool.Damaged, Records: known.news(found)})
}

// lost notes lines that a queue lost after they were stored.
func (s *Settings) lost(l spool.Loss) {
	if l.Records == 0 {
		return
	}
	bytes := uint64(max(0, l.Bytes))
	s.Drops.add(s.Name, l.Reason.String(), l.Records, bytes)
	s.Counters.Dropped(l.Records, bytes)
	s.Wake()
}

// OpenStore opens the queue if it is not open.
func (s *Shipper) OpenStore() error {
	q, ok := s.Store.(*lazyQueue)
	if !ok || q.isOpen() {
		return nil
	}
	if err := q.reopen(); err != nil {
		return err
	}
	return s.resume()
}

// Adopt brings along the queue of the instance's former directory. What cannot be moved is announced
// by a stats.QueueLeft and stays where it is.
func (s *Shipper) Adopt(ctx context.Context, dir string) error {
	err := spool.Move(ctx, QueueDir(dir, s.Set.Name), QueueDir(s.Set.Dir, s.Set.Name), spoolOptions(&s.Set, s.Set.lost))
	if err != nil {
		s.Set.Drops.Defer(func(h stats.Head) stats.Event {
			return stats.QueueLeft{Head: h, Queue: string(s.Set.Name), Dir: dir, Err: err}
		})
		s.Set.Wake()
	}
	return err
}

// CloseStore closes the queue until it is opened again.
func (s *Shipper) CloseStore() error { return s.Store.Close() }

// State is what a host may see of the queue.
func (s *Shipper) State(d stats.Delivery) stats.QueueState {
	st := s.Store.Stats()
	out := stats.QueueState{Queue: string(s.Set.Name), Lines: st.Records, Bytes: st.Bytes, Delivery: d}
	if st.Records == 0 {
		out.Bytes = 0
		return out
	}
	if s.results == nil {
		out.Bytes = min(out.Bytes, s.bytes.Load())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if at := s.ages.since(max(st.Acked, st.Evicted) + 1); !at.IsZero() {
		out.Age = time.Since(at)
	}
	return out
}

// Append appends one line. It is called while osqueryd waits: it makes one write
// and never waits for the transport, an observer or the dispatcher.
func (s *Shipper) Append(line []byte) error {
	if s.discarding.Load() {
		return nil
	}
	if len(line) > s.logs().LineLimit {
		s.Lost("longer than the limit of a line", 1, uint64(len(line)))
		return errLineTooLong
	}
	seq, err := s.Store.Append(line)
	if seq == 0 && err != nil {
		s.Lost("not written to the queue: "+reasonOf(err), 1, uint64(len(line)))
		return err
	}
	s.note(len(line))
	return nil
}

// note counts a line and wakes the dispatcher if it has to know.
func (s *Shipper) note(n int) {
	lines, bytes := s.lines.Add(1), s.bytes.Add(int64(n))
	wake := s.firstCame()
	if l := s.logs(); lines >= int64(l.BatchLines) || bytes >= int64(l.BatchBytes) {
		wake = s.fullReported.CompareAndSwap(false, true) || wake
	}
	if wake {
		s.Set.Wake()
	}
}

// Lost counts and announces lines that are lost.
func (s *Shipper) Lost(reason string, lines, bytes uint64) {
	s.Set.Drops.add(s.Set.Name, reason, lines, bytes)
	s.Set.Counters.Dropped(lines, bytes)
	s.Set.Wake()
}

// Due returns when the next batch should go; false when there is none, and then the
// next line wakes the dispatcher.
func (s *Shipper) Due() (time.Time, bool) {
	if s.results != nil {
		return s.results.due()
	}
	if !s.underWay.Load() && s.Pending() == 0 {
		s.wakeAtNext.Store(true)
		if s.Pending() == 0 {
			return time.Time{}, false
		}
		s.firstCame()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	age := s.logs().BatchAge
	if s.underWay.Load() || s.full() || age == 0 {
		return s.notBefore, true
	}
	when := s.oldest.Add(age)
	if when.Before(s.notBefore) {
		when = s.notBefore
	}
	return when, true
}

// firstCame notes the time of the first line since the dispatcher looked, and
// reports whether this was it.
func (s *Shipper) firstCame() bool {
	if !s.wakeAtNext.Load() || !s.wakeAtNext.CompareAndSwap(true, false) {
		return false
	}
	newest := s.Store.Stats().Last
	s.mu.Lock()
	defer s.mu.Unlock()
	s.oldest = time.Now()
	s.ages.note(s.oldest, max(newest, 1)-1)
	return true
}

// full reports whether a whole batch waits.
func (s *Shipper) full() bool {
	l := s.logs()
	return s.lines.Load() >= int64(l.BatchLines) || s.bytes.Load() >= int64(l.BatchBytes)
}

// Pending counts the lines that are not acknowledged.
func (s *Shipper) Pending() uint64 { return s.Store.Stats().Records }

// DeliverOne sends one batch, if there is one.
func (s *Shipper) DeliverOne(ctx context.Context) error {
	if err := s.busy.Take(ctx); err != nil {
		return err
	}
	defer s.busy.Free()
	if s.results != nil {
		return s.results.one(ctx)
	}
	return s.attempt(ctx)
}

// DeliverAll sends batch after batch until nothing waits, a try fails or ctx ends. It
// waits for neither age nor backoff, but for a server that requested it.
func (s *Shipper) DeliverAll(ctx context.Context) error {
	if err := s.busy.Take(ctx); err != nil {
		return err
	}
	defer s.busy.Free()
	if s.results != nil {
		return s.results.drain(ctx)
	}
	for s.Pending() > 0 || s.underWay.Load() {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := s.askedToWait(); err != nil {
			return err
		}
		if err := s.attempt(ctx); err != nil {
			return err
		}
	}
	return nil
}

// askedToWait is an error while a wait lasts that the server requested.
func (s *Shipper) askedToWait() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if left := time.Until(s.asked); left > 0 {
		return extension.RetryAfter(left, errAskedToWait)
	}
	return nil
}

var errAskedToWait = errors.New("the server asked to wait")

// BatchID names consecutive lines of a queue, for ever: the epoch is random.
func BatchID(instance string, queue extension.Queue, epoch string, first, last uint64) string {
	return fmt.Sprintf("%s/%s/%s/%d-%d", instance, queue, epoch, first, last)
}

// resume begins with what the queue holds now: somebody else may have had it.
func (s *Shipper) resume() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*guard.ReturnGrace)
	defer cancel()
	if err := s.busy.Take(ctx); err != nil {
		return fmt.Errorf("open the %s queue: a delivery of the last run: %w", s.Set.Name, guard.ErrNotReturned)
	}
	defer s.busy.Free()
	st := s.Store.Stats()
	s.state.flight, s.state.settled, s.state.doubt = nil, false, doubt{}
	s.state.recalled = false
	if s.results != nil {
		s.results.restore()
	}
	s.wakeAtNext.Store(st.Records == 0)
	s.fullReported.Store(false)
	s.mu.Lock()
	s.ages = nil
	s.ages.note(time.Now(), max(st.Acked, st.Evicted))
	s.mu.Unlock()
	s.lines.Store(int64(st.Records))
	s.bytes.Store(max(0, st.Bytes))
	s.underWay.Store(st.Pinned > st.Acked)
	return nil
}
