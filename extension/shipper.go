package extension

import (
	"context"
	"crypto"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/osqvisor/osqvisor/stats"
)

// shipper moves the lines of one queue to the transport: in order, one batch at a
// time, each with an id that stays.
type shipper struct {
	name  Queue
	call  string // the transport's call, as events name it
	q     queue
	set   shipSettings
	send  func(context.Context, Batch) error
	says  *shipVoice
	dead  *deadLetters // nil: nothing is kept
	drops *drops
	notes string // where the case against a batch is kept; empty: nowhere
	wake  func()
	tasks *tasks
	live  *live // how distributed results are delivered; nil for logs
	// elsewhere gives when another call of the transport last succeeded.
	elsewhere func() time.Time

	signing slot // one call of the signer at a time

	// Hot path: how much waits, and when to wake the dispatcher.
	lines, bytes atomic.Int64
	alert        atomic.Bool // wake at the next line
	told         atomic.Bool // a full batch was reported
	discarding   atomic.Bool // the transport takes no such lines
	flying       atomic.Bool // a batch is under way

	busy slot // who has it owns the fields below
	step struct {
		flight  *Batch
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

// ages remembers how many lines there had been at some moments, which tells how old the
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

// since gives a moment before which the line had not come, and forgets what is earlier.
func (a *ages) since(line uint64) time.Time {
	for len(*a) > 1 && (*a)[1].after < line {
		*a = (*a)[1:]
	}
	if len(*a) == 0 {
		return time.Time{}
	}
	return (*a)[0].at
}

// shipSettings is what differs between queues.
type shipSettings struct {
	lines     int
	bytes     int
	age       time.Duration
	lineBytes int
	backfill  int64
	timeout   time.Duration
	first     time.Duration // of the backoff
	longest   time.Duration
	signer    crypto.Signer
	node      func() (Node, error)
	form      func(Node, [][]byte) [][]byte // what the lines are sent as, one for one; nil: as they are
	delivery  Delivery
}

var errLineTooLong = errors.New("it is longer than the limit of a line")

func newShipper(name Queue, call string, q queue, set shipSettings, send func(context.Context, Batch) error) *shipper {
	s := &shipper{
		name: name, call: call, q: q, set: set, send: send, busy: newSlot(), signing: newSlot(),
		drops: &drops{}, wake: func() {}, tasks: &tasks{},
		elsewhere: func() time.Time { return time.Time{} },
	}
	s.step.pace = newPace(set.bytes, set.timeout)
	s.step.backoff = newBackoff(set.first, set.longest)
	st := q.Stats()
	s.lines.Store(int64(st.Records))
	s.bytes.Store(max(0, st.Bytes))
	s.flying.Store(st.Pinned > st.Acked)
	s.alert.Store(st.Records == 0)
	s.ages.note(time.Now(), max(st.Acked, st.Evicted))
	return s
}

// state is what a host may see of the queue.
func (s *shipper) state(d stats.Delivery) stats.QueueState {
	st := s.q.Stats()
	out := stats.QueueState{Queue: string(s.name), Lines: st.Records, Bytes: st.Bytes, Delivery: d}
	if st.Records == 0 {
		out.Bytes = 0
		return out
	}
	if s.live == nil {
		out.Bytes = min(out.Bytes, s.bytes.Load())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if at := s.ages.since(max(st.Acked, st.Evicted) + 1); !at.IsZero() {
		out.Age = time.Since(at)
	}
	return out
}

// take appends one line. It is called while osqueryd waits: it makes one write
// and never waits for the transport, an observer or the dispatcher.
func (s *shipper) take(line []byte) error {
	if s.discarding.Load() {
		return nil
	}
	if len(line) > s.set.lineBytes {
		s.lose("longer than the limit of a line", 1, uint64(len(line)))
		return errLineTooLong
	}
	seq, err := s.q.Append(line)
	if seq == 0 && err != nil {
		s.lose("not written to the queue: "+reasonOf(err), 1, uint64(len(line)))
		return err
	}
	s.note(len(line))
	return nil
}

// note counts a line and wakes the dispatcher if it has to know.
func (s *shipper) note(n int) {
	lines, bytes := s.lines.Add(1), s.bytes.Add(int64(n))
	wake := s.firstCame()
	if lines >= int64(s.set.lines) || bytes >= int64(s.set.bytes) {
		wake = s.told.CompareAndSwap(false, true) || wake
	}
	if wake {
		s.wake()
	}
}

func (s *shipper) lose(reason string, lines, bytes uint64) {
	s.drops.add(s.name, reason, lines, bytes)
	s.says.counters.Dropped(lines, bytes)
	s.wake()
}

// due says when the next batch should go; false when there is none, and then the
// next line wakes the dispatcher.
func (s *shipper) due() (time.Time, bool) {
	if s.live != nil {
		return s.live.due()
	}
	if !s.flying.Load() && s.pending() == 0 {
		s.alert.Store(true)
		if s.pending() == 0 {
			return time.Time{}, false
		}
		s.firstCame()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.flying.Load() || s.full() || s.set.age == 0 {
		return s.notBefore, true
	}
	when := s.oldest.Add(s.set.age)
	if when.Before(s.notBefore) {
		when = s.notBefore
	}
	return when, true
}

// firstCame notes the time of the first line since the dispatcher looked, and
// tells whether this was it.
func (s *shipper) firstCame() bool {
	if !s.alert.Load() || !s.alert.CompareAndSwap(true, false) {
		return false
	}
	newest := s.q.Stats().Last
	s.mu.Lock()
	defer s.mu.Unlock()
	s.oldest = time.Now()
	s.ages.note(s.oldest, max(newest, 1)-1)
	return true
}

// full tells whether a whole batch waits.
func (s *shipper) full() bool {
	return s.lines.Load() >= int64(s.set.lines) || s.bytes.Load() >= int64(s.set.bytes)
}

// pending counts the lines that are not acknowledged.
func (s *shipper) pending() uint64 { return s.q.Stats().Records }

// one sends one batch, if there is one.
func (s *shipper) one(ctx context.Context) error {
	if err := s.busy.take(ctx); err != nil {
		return err
	}
	defer s.busy.free()
	if s.live != nil {
		return s.live.one(ctx)
	}
	return s.attempt(ctx)
}

// drain sends batch after batch until nothing waits, a try fails or ctx ends. It
// waits for neither age nor backoff, but for a server that asked for it.
func (s *shipper) drain(ctx context.Context) error {
	if err := s.busy.take(ctx); err != nil {
		return err
	}
	defer s.busy.free()
	if s.live != nil {
		return s.live.drain(ctx)
	}
	for s.pending() > 0 || s.flying.Load() {
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

// askedToWait is an error while a wait lasts that the server asked for.
func (s *shipper) askedToWait() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if left := time.Until(s.asked); left > 0 {
		return RetryAfter(left, errAskedToWait)
	}
	return nil
}

var errAskedToWait = errors.New("the server asked to wait")
