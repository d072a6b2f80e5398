package extension

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/osqvisor/osqvisor/internal/spool"
	"github.com/osqvisor/osqvisor/stats"
)

// shipVoice is whom a shipper tells what happened.
type shipVoice struct {
	*announcer
	counters *stats.Counters
	// shipped is told of every batch that the transport took.
	shipped func(Batch)
}

// attempt tries to deliver the batch under way, or the next one. The caller holds
// s.busy.
func (s *shipper) attempt(ctx context.Context) error {
	if err := s.load(ctx); err != nil {
		if ctx.Err() != nil {
			return err
		}
		return s.postpone(fmt.Errorf("prepare a batch of the %s queue: %w", s.name, err))
	}
	b := s.step.flight
	if b == nil {
		return nil
	}
	if s.step.settled {
		return s.settle()
	}
	b.Try++
	start := time.Now()
	call, cancel := context.WithTimeout(ctx, s.step.pace.limit())
	err := s.send(call, *b)
	late := call.Err() != nil && errors.Is(err, context.DeadlineExceeded)
	cancel()
	switch {
	case err == nil:
		return s.delivered(time.Since(start))
	case ctx.Err() != nil:
		return err
	case errors.Is(err, ErrUnsupported):
		return s.discard()
	case errors.Is(err, ErrTooLarge) && len(b.Lines) > 1:
		return s.split(ctx)
	case errors.Is(err, ErrPermanent), errors.Is(err, ErrTooLarge):
		return s.bury(err)
	case late:
		s.step.pace.timedOut()
	}
	return s.postpone(err)
}

// load makes the next batch the one under way: its end is written down before it
// is sent, so that it is the same batch after a restart.
func (s *shipper) load(ctx context.Context) error {
	if s.step.flight != nil {
		return nil
	}
	lines, bytes := s.set.lines, s.step.pace.target
	before := s.q.Stats()
	if before.Pinned > before.Acked {
		lines, bytes = 0, 0 // the batch that was under way, whatever its size
	}
	r, err := s.q.Read(0, lines, bytes)
	if err != nil {
		return err
	}
	if len(r.Lines) == 0 {
		return s.loadNothing(r.Last)
	}
	if err := s.q.Pin(r.Last); err != nil {
		return err
	}
	b, err := s.batch(ctx, r)
	if err != nil {
		return err
	}
	s.step.covers = covers(before, r)
	s.step.flight, s.step.settled = b, false
	s.flying.Store(true)
	return nil
}

// loadNothing is a read without lines: at most there are gaps, up to last.
func (s *shipper) loadNothing(last uint64) error {
	s.flying.Store(false)
	if last > 0 {
		return s.q.Ack(last)
	}
	if s.pending() > 0 {
		return errNothingRead
	}
	return nil
}

var errNothingRead = errors.New("lines are waiting, and none can be read")

func (s *shipper) batch(ctx context.Context, r spool.Batch) (*Batch, error) {
	node, err := s.set.node()
	if err != nil {
		s.says.caught(err)
		return nil, err
	}
	b := &Batch{
		ID:    batchID(node.Instance, s.name, r.First, r.Last),
		Queue: s.name, First: r.First, Last: r.Last, Lines: r.Lines, Bytes: r.Bytes,
	}
	return b, s.sign(ctx, b)
}

// sign waits for the signer as long as for the transport: it may be a device that hangs.
func (s *shipper) sign(ctx context.Context, b *Batch) (err error) {
	if s.set.signer == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.set.timeout)
	defer cancel()
	unsigned := *b
	b.Signature, err = bounded(ctx, s.tasks, s.signing, "signer", func(context.Context) ([]byte, error) {
		return sign(s.set.signer, unsigned)
	})
	s.says.caught(err)
	if err != nil {
		return fmt.Errorf("sign batch %s: %w", b.ID, err)
	}
	return nil
}

// delivered is a batch that the transport took.
func (s *shipper) delivered(took time.Duration) error {
	b := s.step.flight
	s.step.pace.delivered(took)
	s.step.backoff.Reset()
	s.says.shipped(*b)
	return s.settle()
}

// settle acknowledges the batch under way and sets when the next may go.
func (s *shipper) settle() error {
	b := s.step.flight
	s.step.settled = true
	if err := s.q.Ack(b.Last); err != nil {
		return s.postpone(fmt.Errorf("acknowledge batch %s: %w", b.ID, err))
	}
	s.step.flight = nil
	s.flying.Store(false)
	s.recount(b.Bytes)
	s.told.Store(false)
	s.rest(b.Bytes)
	return nil
}

// recount notes what waits after a batch of so many bytes was acknowledged. The sum of
// bytes is not exact: what a queue loses stays in it, and what a start finds is the size
// of files. A batch that took all there was puts it right.
func (s *shipper) recount(sent int) {
	st := s.q.Stats()
	s.lines.Store(int64(st.Records))
	switch left := s.bytes.Add(-int64(sent)); {
	case st.Records == 0 || left < 0:
		s.bytes.Store(0)
	case s.step.covers > 0 && s.step.covers <= st.AppendedBytes:
		s.bytes.Store(int64(st.AppendedBytes - s.step.covers))
	}
}

// covers gives how many bytes had been appended since the queue was opened when the last
// line of r was, provided that r reaches to the last line of before; else 0, which says
// nothing.
func covers(before spool.Stats, r spool.Batch) uint64 {
	if r.Last < before.Last {
		return 0
	}
	sum := before.AppendedBytes
	for i, line := range r.Lines {
		if r.First+uint64(i) > before.Last {
			sum += uint64(len(line))
		}
	}
	return sum
}

// rest sets when the next batch may go: at once, unless there is a backlog and
// the host limits its rate.
func (s *shipper) rest(sent int) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.oldest, s.notBefore, s.asked = now, time.Time{}, time.Time{}
	if s.set.backfill > 0 && s.full() {
		s.notBefore = now.Add(time.Duration(float64(sent) / float64(s.set.backfill) * float64(time.Second)))
	}
}

// postpone holds the batch under way back, and says so.
func (s *shipper) postpone(err error) error {
	wait, asked := s.step.backoff.NextBackOff(), retryAfter(err)
	if asked > 0 {
		wait = asked
	}
	s.mu.Lock()
	s.notBefore, s.asked = time.Now().Add(wait), time.Time{}
	if asked > 0 {
		s.asked = s.notBefore
	}
	s.mu.Unlock()
	s.says.say(func(h stats.Head) stats.Event {
		return stats.TransportFailed{Head: h, Call: s.call, Err: err, Retry: wait}
	})
	return err
}

// split halves a batch that the server said it did not take because of its size:
// only then is it safe to give its lines another id.
func (s *shipper) split(ctx context.Context) error {
	b := s.step.flight
	half := len(b.Lines) / 2
	s.step.pace.tooLarge(b.Bytes)
	r := spool.Batch{First: b.First, Last: b.First + uint64(half) - 1, Lines: b.Lines[:half]}
	for _, line := range r.Lines {
		r.Bytes += len(line)
	}
	if err := s.q.Pin(r.Last); err != nil {
		return s.postpone(fmt.Errorf("split batch %s: %w", b.ID, err))
	}
	smaller, err := s.batch(ctx, r)
	if err != nil {
		return s.postpone(err)
	}
	s.step.flight, s.step.covers = smaller, 0
	return nil
}

// bury gives a batch up that will never be taken.
func (s *shipper) bury(cause error) error {
	b, reason := s.step.flight, "refused for good by the server"
	if s.dead != nil {
		reason += ", kept as a dead letter"
		if err := s.dead.keep(*b, cause); err != nil {
			reason = "refused for good by the server, and not kept"
			s.says.warn("a dead letter was not kept", "batch", b.ID, "error", err)
		}
	}
	s.says.warn("the server refused a batch for good", "batch", b.ID, "error", cause)
	s.lose(reason, uint64(len(b.Lines)), uint64(b.Bytes))
	s.step.backoff.Reset()
	return s.settle()
}

// discard gives up what waits, and what is to come: there is nobody to take it,
// which is no loss.
func (s *shipper) discard() error {
	s.discarding.Store(true)
	s.says.warn("the transport takes no lines of this queue; they are discarded", "queue", string(s.name))
	if last := s.q.Stats().Last; last > s.step.flight.Last {
		s.step.flight.Last = last
	}
	return s.settle()
}

// reasonOf gives a few stable words for why the queue did not take a line.
func reasonOf(err error) string {
	switch {
	case errors.Is(err, spool.ErrNoSpace):
		return "no space left"
	case errors.Is(err, spool.ErrTooLarge):
		return "longer than the limit of a line"
	case errors.Is(err, spool.ErrClosed):
		return "the extension is closed"
	default:
		return "input or output failed"
	}
}
