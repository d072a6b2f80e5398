package delivery

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/internal/guard"
	"github.com/osqvisor/osqvisor/internal/spool"
	"github.com/osqvisor/osqvisor/stats"
)

// attempt tries to deliver the batch under way, or the next one. The caller holds
// s.busy.
func (s *Shipper) attempt(ctx context.Context) error {
	s.renew()
	if err := s.load(ctx); err != nil {
		if ctx.Err() != nil {
			return err
		}
		return s.postpone(fmt.Errorf("prepare a batch of the %s queue: %w", s.Set.Name, err))
	}
	b := s.state.flight
	if b == nil {
		return nil
	}
	if s.state.settled {
		return s.acknowledge()
	}
	if s.state.resign {
		if err := s.sign(ctx, b); err != nil {
			if ctx.Err() != nil {
				return err
			}
			return s.postpone(err)
		}
		s.state.resign = false
	}
	if s.state.doubt.needsProbe(time.Now(), s.Set.Elsewhere(), len(b.Lines)) {
		if done, err := s.probe(ctx); done {
			return err
		}
	}
	b.Try++
	start := time.Now()
	late, err := s.deliver(ctx, *b)
	switch {
	case err == nil:
		return s.delivered(time.Since(start))
	case ctx.Err() != nil:
		return err
	case late:
		s.state.pace.timedOut()
	}
	return s.failed(ctx, err)
}

// failed decides what follows from a call that failed.
func (s *Shipper) failed(ctx context.Context, err error) error {
	b := s.state.flight
	switch {
	case errors.Is(err, extension.ErrUnsupported):
		return s.discard()
	case errors.Is(err, extension.ErrTooLarge) && len(b.Lines) > 1:
		s.state.pace.tooLarge(b.Bytes)
		return s.split(ctx)
	case errors.Is(err, extension.ErrPermanent) && len(b.Lines) > 1:
		return s.searchRefused(ctx)
	case errors.Is(err, extension.ErrPermanent), errors.Is(err, extension.ErrTooLarge):
		return s.giveUp(err, "refused for good by the server")
	default:
		return s.refusedForNow(ctx, err)
	}
}

// deliver makes one call; late reports that it ran out of time.
func (s *Shipper) deliver(ctx context.Context, b extension.Batch) (late bool, err error) {
	call, cancel := context.WithTimeout(ctx, s.state.pace.limit())
	defer cancel()
	err = s.Set.Send(call, b)
	return call.Err() != nil && errors.Is(err, context.DeadlineExceeded), err
}

// refusedForNow decides what follows from a failure that is not final.
func (s *Shipper) refusedForNow(ctx context.Context, err error) error {
	d, b := &s.state.doubt, s.state.flight
	d.turn = false
	active, fresh := d.refused(time.Now(), b.Last, s.logs().Delivery), d.fresh
	defer s.saveDoubt()
	if !active {
		return s.postpone(err)
	}
	d.fresh = false
	switch {
	case len(b.Lines) > 1 && d.contrast:
		return s.split(ctx)
	case len(b.Lines) == 1 && fresh:
		d.proofs++
		if d.proofs >= proofs {
			d.proven = time.Now()
			return s.giveUp(err, "refused by the server, which took the lines around it")
		}
	}
	return s.postpone(err)
}

// searchRefused begins to look for the line because of which a batch is refused for good.
func (s *Shipper) searchRefused(ctx context.Context) error {
	d := &s.state.doubt
	if !d.active {
		d.open(time.Now(), s.state.flight.Last)
	}
	d.contrast = true // the server reported it itself
	return s.split(ctx)
}

// probe sends one line from behind the batch under suspicion. It reports whether that was all
// that is to be done now.
func (s *Shipper) probe(ctx context.Context) (done bool, err error) {
	d, b := &s.state.doubt, s.state.flight
	r, err := s.Store.Read(s.beyond(b.Last), 1, 0)
	if err != nil {
		return true, s.postpone(fmt.Errorf("prepare a batch of the %s queue: %w", s.Set.Name, err))
	}
	if len(r.Lines) == 0 {
		if d.reach > 0 {
			d.reach = 0
			return false, nil
		}
		if len(b.Lines) == 1 {
			return false, nil // it holds up nothing
		}
		return true, s.split(ctx) // its other half is what is behind then
	}
	other, err := s.batch(ctx, r)
	if err != nil {
		return true, s.postpone(err)
	}
	other.Try = 1
	d.probed = time.Now()
	if _, err := s.deliver(ctx, *other); err != nil {
		if ctx.Err() != nil {
			return true, err
		}
		d.turn = true
		d.reach = (d.reach + 1) % probeReach
		return true, s.postpone(err)
	}
	if d.ahead == nil {
		d.ahead = map[uint64]bool{}
	}
	d.ahead[r.Last], d.reach = true, 0
	d.contrast, d.fresh, d.givenUpInARow = true, true, 0
	s.state.backoff.Reset()
	s.shipped(*other)
	return true, nil
}

// beyond is the number after which the next probe is read.
func (s *Shipper) beyond(last uint64) uint64 {
	d := &s.state.doubt
	at := last + d.reach
	for d.ahead[at+1] {
		at++
	}
	return at
}

// load makes the next batch the one under way: its end is written down before it
// is sent, so that it is the same batch after a restart.
func (s *Shipper) load(ctx context.Context) error {
	before := s.Store.Stats()
	floor := max(before.Acked, before.Evicted)
	s.noteAge(before)
	s.state.doubt.forget(floor)
	if f := s.state.flight; f != nil && !s.state.settled && f.First <= before.Evicted {
		s.state.flight = nil // announced as lost: it must not arrive all the same
	}
	if s.state.flight != nil {
		return nil
	}
	lines, bytes := s.logs().BatchLines, s.state.pace.target
	if before.Pinned > floor {
		lines, bytes = 0, 0 // the batch that was under way, whatever its size
	}
	if room := s.state.doubt.room(floor); room > 0 && lines > 0 {
		lines = min(lines, room)
	}
	r, err := s.Store.Read(0, lines, bytes)
	if err != nil {
		return err
	}
	if r, err = s.withoutDelivered(r); err != nil {
		return err
	}
	if len(r.Lines) == 0 {
		return s.loadNothing(r.Last)
	}
	if err := s.Store.Pin(r.Last); err != nil {
		return err
	}
	b, err := s.batch(ctx, r)
	if err != nil {
		return err
	}
	s.state.covers = covers(before, r)
	s.state.flight, s.state.settled = b, false
	s.underWay.Store(true)
	s.loadDoubt()
	return nil
}

// noteAge remembers how many lines there are now.
func (s *Shipper) noteAge(st spool.Stats) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ages.note(time.Now(), st.Last)
}

// withoutDelivered takes out of a batch what was delivered ahead of its turn: it begins behind
// such lines and ends before them.
func (s *Shipper) withoutDelivered(r spool.Batch) (spool.Batch, error) {
	ahead := s.state.doubt.ahead
	if len(ahead) == 0 {
		return r, nil
	}
	n := 0
	for n < len(r.Lines) && ahead[r.First+uint64(n)] {
		n++
	}
	if n > 0 {
		if err := s.Store.Ack(r.First + uint64(n) - 1); err != nil {
			return r, err
		}
		s.state.doubt.forget(r.First + uint64(n) - 1)
	}
	end := n
	for end < len(r.Lines) && !ahead[r.First+uint64(end)] {
		end++
	}
	return partOf(r, n, end), nil
}

// partOf is the lines of r from one index to before another.
func partOf(r spool.Batch, from, to int) spool.Batch {
	out := spool.Batch{First: r.First + uint64(from), Last: r.First + uint64(to) - 1, Lines: r.Lines[from:to]}
	for _, line := range out.Lines {
		out.Bytes += len(line)
	}
	return out
}

// loadNothing is a read without lines: at most there are gaps, up to last.
func (s *Shipper) loadNothing(last uint64) error {
	s.underWay.Store(false)
	if last > 0 {
		return s.Store.Ack(last)
	}
	if s.Pending() > 0 {
		return errNothingRead
	}
	return nil
}

var errNothingRead = errors.New("lines are waiting, and none can be read")

func (s *Shipper) batch(ctx context.Context, r spool.Batch) (*extension.Batch, error) {
	node, err := s.Set.Node()
	if err != nil {
		s.Set.Announcer.AnnouncePanic(err)
		return nil, err
	}
	epoch := s.Store.Stats().Epoch
	b := &extension.Batch{
		ID:    BatchID(node.Instance, s.Set.Name, epoch, r.First, r.Last),
		Queue: s.Set.Name, Epoch: epoch, First: r.First, Last: r.Last, Lines: r.Lines, Bytes: r.Bytes,
	}
	if s.Set.Form != nil {
		b.Lines = s.Set.Form(node, r.Lines)
		b.Bytes = sizeOf(b.Lines)
	}
	return b, s.sign(ctx, b)
}

// sign waits for the signer as long as for the transport: it may be a device that hangs.
func (s *Shipper) sign(ctx context.Context, b *extension.Batch) (err error) {
	l := s.logs()
	if l.Signer == nil {
		b.Signature = nil
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, l.Delivery.Timeout)
	defer cancel()
	unsigned := *b
	b.Signature, err = guard.Bounded(ctx, s.Set.Tasks, s.signing, "signer", func(context.Context) ([]byte, error) {
		return sign(l.Signer, unsigned)
	})
	s.Set.Announcer.AnnouncePanic(err)
	if err != nil {
		return fmt.Errorf("sign batch %s: %w", b.ID, err)
	}
	return nil
}

// delivered is a batch that the transport accepted.
func (s *Shipper) delivered(took time.Duration) error {
	b := s.state.flight
	s.state.pace.delivered(took)
	s.state.backoff.Reset()
	s.state.doubt.accepted(b.Last)
	s.shipped(*b)
	return s.acknowledge()
}

// acknowledge acknowledges the batch under way and sets when the next may go.
func (s *Shipper) acknowledge() error {
	b := s.state.flight
	s.state.settled = true
	if err := s.Store.Ack(b.Last); err != nil {
		return s.postpone(fmt.Errorf("acknowledge batch %s: %w", b.ID, err))
	}
	s.state.flight = nil
	s.underWay.Store(false)
	s.recount(b.Bytes)
	s.fullReported.Store(false)
	s.scheduleNext(b.Bytes)
	return nil
}

// recount notes what waits after a batch of so many bytes was acknowledged. The sum of
// bytes is not exact: what a queue loses stays in it, and what a start finds is the size
// of files. A batch that holds all there was corrects it.
func (s *Shipper) recount(sent int) {
	st := s.Store.Stats()
	s.lines.Store(int64(st.Records))
	switch left := s.bytes.Add(-int64(sent)); {
	case st.Records == 0 || left < 0:
		s.bytes.Store(0)
	case s.state.covers > 0 && s.state.covers <= st.AppendedBytes:
		s.bytes.Store(int64(st.AppendedBytes - s.state.covers))
	}
}

// covers returns how many bytes had been appended since the queue was opened when the last
// line of r was, provided that r reaches to the last line of before; else 0, for
// unknown.
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

// scheduleNext sets when the next batch may go: at once, unless there is a backlog and
// the host limits its rate.
func (s *Shipper) scheduleNext(sent int) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.oldest, s.notBefore, s.asked = now, time.Time{}, time.Time{}
	if rate := s.logs().BackfillRate; rate > 0 && s.full() {
		s.notBefore = now.Add(time.Duration(float64(sent) / float64(rate) * float64(time.Second)))
	}
}

// postpone holds the batch under way back, and announces it.
func (s *Shipper) postpone(err error) error {
	return s.postponeBy(s.state.backoff.NextBackOff(), err)
}

// postponeBy holds the queue back for a while, or for as long as the server requested.
func (s *Shipper) postponeBy(wait time.Duration, err error) error {
	asked := RetryAfter(err)
	if asked > 0 {
		wait = asked
	}
	s.mu.Lock()
	s.notBefore, s.asked = time.Now().Add(wait), time.Time{}
	if asked > 0 {
		s.asked = s.notBefore
	}
	s.mu.Unlock()
	s.failedCall(err, wait)
	return err
}

// split halves a batch that the server refused. Its lines get another id: when the server
// accepted some of them all the same, it is sent those twice.
func (s *Shipper) split(ctx context.Context) error {
	b := s.state.flight
	r := partOf(spool.Batch{First: b.First, Lines: b.Lines}, 0, len(b.Lines)/2)
	if err := s.Store.Pin(r.Last); err != nil {
		return s.postpone(fmt.Errorf("split batch %s: %w", b.ID, err))
	}
	smaller, err := s.batch(ctx, r)
	if err != nil {
		return s.postpone(err)
	}
	s.state.flight, s.state.covers = smaller, 0
	return nil
}

// giveUp returns up a line that will never be taken. The next one waits when the server accepted
// nothing since the last one was given up: a server that refuses all it gets is at fault itself.
func (s *Shipper) giveUp(cause error, reason string) error {
	b := s.state.flight
	s.Set.Announcer.Warn("a batch is given up", "batch", b.ID, "reason", reason, "error", cause)
	s.Lost(reason+s.keepDeadLetter(*b, cause), uint64(len(b.Lines)), uint64(b.Bytes))
	d := &s.state.doubt
	d.proofs, d.turn, d.refusals = 0, false, 0
	d.givenUpInARow++
	d.closeAt(b.Last)
	if d.givenUpInARow == 1 {
		s.state.backoff.Reset()
		return s.acknowledge()
	}
	if err := s.acknowledge(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.notBefore = time.Now().Add(s.state.backoff.NextBackOff())
	return nil
}

// keepDeadLetter keeps a batch as a dead letter, and returns what to add to the reason.
func (s *Shipper) keepDeadLetter(b extension.Batch, cause error) string {
	if s.dead == nil {
		return ""
	}
	if err := s.dead.Keep(b, cause); err != nil {
		s.Set.Announcer.Warn("a dead letter was not kept", "batch", b.ID, "error", err)
		return ", and not kept"
	}
	return ", kept as a dead letter"
}

// discard returns up what waits, and what is to come: there is nobody to take it,
// which is no loss.
func (s *Shipper) discard() error {
	s.discarding.Store(true)
	s.Set.Announcer.Warn("the transport takes no lines of this queue; they are discarded", "queue", string(s.Set.Name))
	if last := s.Store.Stats().Last; last > s.state.flight.Last {
		s.state.flight.Last = last
	}
	return s.acknowledge()
}

// reasonOf returns a short, stable text for why the queue did not accept a line.
func reasonOf(err error) string {
	switch {
	case errors.Is(err, spool.ErrNoSpace):
		return "no space left"
	case errors.Is(err, spool.ErrFull):
		return "the queue is full"
	case errors.Is(err, spool.ErrTooLarge):
		return "longer than the limit of a line"
	case errors.Is(err, spool.ErrClosed):
		return "the extension is closed"
	default:
		return "input or output failed"
	}
}

// failedCall announces a call that failed.
func (s *Shipper) failedCall(err error, wait time.Duration) {
	s.Set.Announcer.Announce(func(h stats.Head) stats.Event {
		return stats.TransportFailed{Head: h, Call: s.Set.Call, Err: err, Retry: wait}
	})
}

// shipped counts and announces a batch that the transport accepted.
func (s *Shipper) shipped(b extension.Batch) {
	s.Set.Counters.Out(len(b.Lines), b.Bytes)
	s.Set.Announcer.Announce(func(h stats.Head) stats.Event {
		return stats.LogsDelivered{Head: h, Batch: b.ID, Queue: string(b.Queue), Lines: len(b.Lines), Bytes: b.Bytes}
	})
}

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

// delivered learns from a batch that was accepted after d.
func (p *pace) delivered(d time.Duration) {
	p.patience = 1
	switch {
	case d > p.timeout/2:
		p.shrink()
	case d < p.timeout/8:
		p.target = min(p.max, p.target*2)
	}
}

// timedOut learns from a batch that ran out of time.
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

// maxRetryAfter bounds the wait that a server can request.
const maxRetryAfter = 24 * time.Hour

// RetryAfter returns the wait that err requests, and 0 when it requests none.
func RetryAfter(err error) time.Duration {
	var r *extension.RetryAfterError
	if errors.As(err, &r) && r.After > 0 {
		return min(r.After, maxRetryAfter)
	}
	return 0
}

// NewBackoff makes an exponential backoff with jitter that never gives up.
func NewBackoff(first, longest time.Duration) *backoff.ExponentialBackOff {
	return backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(first), backoff.WithMaxInterval(longest),
		backoff.WithRandomizationFactor(0.3), backoff.WithMultiplier(2), backoff.WithMaxElapsedTime(0))
}
