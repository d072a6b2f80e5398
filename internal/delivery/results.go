package delivery

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/osqvisor/osqvisor/extension"
)

const (
	// maxHeld bounds how many refused entries others are tried before.
	maxHeld = 128
	// outageAt is how many different entries in a row are refused before nothing is
	// thought to get through.
	outageAt = 3
	// longestLive is the longest wait between tries while nothing gets through: somebody
	// sits before the screen.
	longestLive = 30 * time.Second
	// longestHeld is the longest wait between tries of one entry.
	longestHeld = 5 * time.Minute
)

// Results is how distributed results are delivered.
type Results struct {
	Send func(context.Context, []extension.Result) error
	Gone func(seq uint64) // an entry is dealt with
	Came func(seq uint64, results []extension.Result)
}

// resultQueue delivers the queue of distributed results. An entry is one write of osqueryd, or one
// result of it. Entries do not wait for one another: one that is refused is held and tried
// again later, and those behind it go on. The queue is acknowledged up to the first that is
// held; what was delivered behind it is written down beside the queue.
type resultQueue struct {
	s    *Shipper
	path string // what was delivered out of turn

	// Owned by who holds the shipper's slot.
	acceptedCount uint64 // entries that the server accepted
	streak        int    // different entries that were refused since
	backoff       *backoff.ExponentialBackOff
	written       string // what was written down last

	// Guarded by the shipper's mu.
	scanned uint64 // entries up to here are dealt with, but for those that are held
	newest  string // hash of the last of them
	held    map[uint64]*heldEntry
}

// heldEntry is one that was refused.
type heldEntry struct {
	tries         int
	proofs        int    // refusals after another entry had been taken
	acceptedCount uint64 // live.takes at the last refusal
	next          time.Time
	hash          string
}

// entry is what is tried next.
type entry struct {
	seq  uint64
	line []byte
	held *heldEntry // nil: it is tried for the first time
}

func newResultQueue(s *Shipper, dir string) *resultQueue {
	return &resultQueue{
		s: s, path: filepath.Join(QueueDir(dir, s.Set.Name), "held.json"), held: map[uint64]*heldEntry{},
		backoff: resultBackoff(s.logs().Delivery),
	}
}

func resultBackoff(d extension.Delivery) *backoff.ExponentialBackOff {
	return NewBackoff(d.FirstWait, max(d.FirstWait, min(d.LongestWait, longestLive)))
}

// stamp puts the time in front of what is queued: results have an age.
func stamp(now time.Time, text []byte) []byte {
	return append(append(strconv.AppendInt(nil, now.UnixNano(), 10), ' '), text...)
}

// unstamp returns the time and what was queued.
func unstamp(line []byte) (time.Time, []byte) {
	at, text, found := bytes.Cut(line, []byte(" "))
	ns, err := strconv.ParseInt(string(at), 10, 64)
	if !found || err != nil {
		return time.Now(), line
	}
	return time.Unix(0, ns), text
}

// AppendResults queues one write of distributed results.
func (s *Shipper) AppendResults(text []byte) (seq uint64, kept bool) {
	line := stamp(time.Now(), text)
	if len(line) > s.logs().LineLimit {
		return 0, false
	}
	seq, err := s.Store.Append(line)
	if seq == 0 && err != nil {
		return 0, false
	}
	s.note(len(line))
	return seq, true
}

// Span returns the number up to which the queue's entries are gone, and that of the last one.
func (s *Shipper) Span() (floor, last uint64) {
	st := s.Store.Stats()
	return max(st.Acked, st.Evicted), st.Last
}

// EachWaiting calls visit for every entry after a number that is not dealt with, and returns the
// number up to which it looked.
func (s *Shipper) EachWaiting(after uint64, visit func(seq uint64, text []byte)) uint64 {
	last := s.Store.Stats().Last
	for after < last {
		r, err := s.Store.Read(after, 0, 1<<20)
		if err != nil || r.Last <= after {
			break
		}
		for i, line := range r.Lines {
			if seq := r.First + uint64(i); !s.results.done(seq) {
				_, text := unstamp(line)
				visit(seq, text)
			}
		}
		after = r.Last
	}
	return after
}

// due returns when to look again; false when nothing waits.
func (l *resultQueue) due() (time.Time, bool) {
	st := l.s.Store.Stats()
	if st.Records == 0 {
		l.s.wakeAtNext.Store(true)
		return time.Time{}, false
	}
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	var when time.Time
	if st.Last <= l.scanned || len(l.held) >= maxHeld {
		if h := l.soonest(nil); h != 0 {
			when = l.held[h].next
		}
	}
	if when.Before(l.s.notBefore) {
		when = l.s.notBefore
	}
	return when, true
}

// soonest returns the held entry that is next, but for those in skip; 0 for none. The
// shipper's mu is locked.
func (l *resultQueue) soonest(skip map[uint64]bool) (seq uint64) {
	for n, h := range l.held {
		if skip[n] {
			continue
		}
		if seq == 0 || h.next.Before(l.held[seq].next) || h.next.Equal(l.held[seq].next) && n < seq {
			seq = n
		}
	}
	return seq
}

// one tries one entry that is due.
func (l *resultQueue) one(ctx context.Context) error {
	e, err := l.next(nil, false)
	if err != nil {
		return l.postpone(err)
	}
	if e == nil {
		return l.acknowledge()
	}
	return l.try(ctx, e)
}

// drain tries every entry once, whether it is due or not, until nothing gets through. The
// error is the first one.
func (l *resultQueue) drain(ctx context.Context) error {
	var first error
	tried := map[uint64]bool{}
	l.streak = 0
	for l.streak < outageAt {
		if err := ctx.Err(); err != nil {
			return errors.Join(first, err)
		}
		if err := l.s.askedToWait(); err != nil {
			return errors.Join(first, err)
		}
		e, err := l.next(tried, true)
		if err != nil {
			return errors.Join(first, l.postpone(err))
		}
		if e == nil {
			return errors.Join(first, l.acknowledge())
		}
		tried[e.seq] = true
		if err := l.try(ctx, e); err != nil && first == nil {
			first = err
		}
	}
	return first
}

// next returns the next entry: one that was never tried, or else one that is held and due.
func (l *resultQueue) next(skip map[uint64]bool, anyway bool) (*entry, error) {
	l.s.renew()
	l.catchUp()
	for {
		e, err := l.unread()
		if e != nil || err != nil {
			return e, err
		}
		l.s.mu.Lock()
		seq := l.soonest(skip)
		h := l.held[seq]
		l.s.mu.Unlock()
		if h == nil || !anyway && h.next.After(time.Now()) {
			return nil, nil //nolint:nilnil // there is nothing to do, which is no error
		}
		r, err := l.s.Store.Read(seq-1, 1, 0)
		if err != nil {
			return nil, err
		}
		if r.First == seq {
			return &entry{seq: seq, line: r.Lines[0], held: h}, nil
		}
		l.remove(seq) // it was evicted or damaged meanwhile, and announced
	}
}

// unread returns the first entry that was never tried.
func (l *resultQueue) unread() (*entry, error) {
	l.s.mu.Lock()
	after, full := l.scanned, len(l.held) >= maxHeld
	l.s.mu.Unlock()
	if full {
		return nil, nil //nolint:nilnil // none may be tried
	}
	r, err := l.s.Store.Read(after, 1, 0)
	if err != nil {
		return nil, err
	}
	if len(r.Lines) == 0 {
		l.s.mu.Lock()
		l.scanned = max(l.scanned, r.Last)
		l.s.mu.Unlock()
		return nil, nil //nolint:nilnil // there is none
	}
	return &entry{seq: r.First, line: r.Lines[0]}, nil
}

// catchUp forgets what the queue evicted.
func (l *resultQueue) catchUp() {
	st := l.s.Store.Stats()
	floor := max(st.Acked, st.Evicted)
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	l.s.ages.note(time.Now(), st.Last)
	l.scanned = max(l.scanned, floor)
	for seq := range l.held {
		if seq <= floor {
			delete(l.held, seq)
		}
	}
}

// try sends one entry.
func (l *resultQueue) try(ctx context.Context, e *entry) error {
	at, text := unstamp(e.line)
	results, err := ParseResults(text)
	if err != nil {
		return l.giveUp(e, 1, err, "malformed")
	}
	if age := time.Since(at); age > l.s.logs().Delivery.ResultMaxAge {
		return l.giveUp(e, len(results), errTooOld, "older than anybody waits for")
	}
	call, cancel := context.WithTimeout(ctx, l.s.logs().Delivery.Timeout)
	defer cancel()
	err = l.s.Set.Results.Send(call, results)
	switch {
	case err == nil:
		l.accepted()
		return l.finish(e)
	case ctx.Err() != nil:
		return err
	case errors.Is(err, extension.ErrUnsupported):
		return l.discard()
	}
	final := errors.Is(err, extension.ErrPermanent) || errors.Is(err, extension.ErrTooLarge)
	switch {
	case len(results) > 1 && (final || l.proven(e)):
		return l.split(e, at, results, err)
	case final:
		return l.giveUp(e, len(results), err, "refused for good by the server")
	default:
		return l.hold(e, len(results), err)
	}
}

var errTooOld = errors.New("nobody waits for it any more")

// proven reports whether another entry was accepted since this one was first refused.
func (l *resultQueue) proven(e *entry) bool {
	return e.held != nil && e.held.acceptedCount < l.acceptedCount
}

// accepted notes that the server takes results. After an outage all that is held is tried.
func (l *resultQueue) accepted() {
	l.acceptedCount++
	l.backoff.Reset()
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	l.s.notBefore, l.s.asked = time.Time{}, time.Time{}
	if l.streak >= outageAt {
		for _, h := range l.held {
			h.next = time.Time{}
		}
	}
	l.streak = 0
}

// hold keeps an entry that was refused for later, or gives it up when it was refused often
// while others were accepted.
func (l *resultQueue) hold(e *entry, results int, err error) error {
	h := e.held
	switch {
	case h == nil:
		h = &heldEntry{hash: hashOf(e.line)}
		l.streak++
	case l.proven(e):
		h.proofs++
	default:
		l.streak++
	}
	h.tries, h.acceptedCount = h.tries+1, l.acceptedCount
	if h.tries >= l.s.logs().Delivery.MaxAttempts && h.proofs >= proofs {
		return l.giveUp(e, results, err, "refused by the server, which took others")
	}
	wait := longestHeld
	if h.tries < 9 {
		wait = min(longestHeld, l.s.logs().Delivery.FirstWait<<(h.tries-1))
	}
	l.s.mu.Lock()
	h.next = time.Now().Add(wait)
	l.held[e.seq] = h
	l.passed(e)
	l.s.mu.Unlock()
	if l.streak >= outageAt || RetryAfter(err) > 0 {
		return l.postpone(err)
	}
	l.s.failedCall(err, wait)
	return err
}

// postpone holds the whole queue back: nothing gets through, or the server requested it.
func (l *resultQueue) postpone(err error) error {
	return l.s.postponeBy(l.backoff.NextBackOff(), err)
}

// split makes an entry of each result: one of them may be at fault. They go to the end of
// the queue.
func (l *resultQueue) split(e *entry, at time.Time, results []extension.Result, cause error) error {
	for _, r := range results {
		text, err := EncodeResults([]extension.Result{r})
		if err == nil {
			text = stamp(at, text)
			seq, failed := l.s.Store.Append(text)
			if seq != 0 {
				l.s.Set.Results.Came(seq, []extension.Result{r})
				continue
			}
			err = failed
		}
		l.s.Set.Announcer.Warn("results could not be taken apart", "error", err)
		return l.hold(e, len(results), cause)
	}
	return l.finish(e)
}

// giveUp ends the tries of an entry.
func (l *resultQueue) giveUp(e *entry, results int, cause error, reason string) error {
	_, text := unstamp(e.line)
	l.s.Set.Announcer.Warn("a distributed result is given up", "reason", reason, "error", cause)
	reason += l.s.keepDeadLetter(extension.Batch{
		ID: string(l.s.Set.Name) + "/" + strconv.FormatUint(e.seq, 10), Queue: l.s.Set.Name,
		First: e.seq, Last: e.seq, Lines: [][]byte{text}, Bytes: len(text),
	}, cause)
	l.s.Lost(reason, uint64(max(1, results)), uint64(len(text)))
	return l.finish(e)
}

// discard returns up all there is: nobody takes results.
func (l *resultQueue) discard() error {
	l.s.mu.Lock()
	l.scanned, l.held = max(l.scanned, l.s.Store.Stats().Last), map[uint64]*heldEntry{}
	l.s.mu.Unlock()
	return l.acknowledge()
}

// finish notes that an entry is dealt with.
func (l *resultQueue) finish(e *entry) error {
	l.s.Set.Results.Gone(e.seq)
	l.s.mu.Lock()
	delete(l.held, e.seq)
	l.passed(e)
	l.s.mu.Unlock()
	return l.acknowledge()
}

// passed notes that an entry was tried; the shipper's mu is locked.
func (l *resultQueue) passed(e *entry) {
	if e.seq > l.scanned {
		l.scanned, l.newest = e.seq, hashOf(e.line)
	}
}

func (l *resultQueue) remove(seq uint64) {
	l.s.Set.Results.Gone(seq)
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	delete(l.held, seq)
}

// done reports whether an entry was dealt with, though the queue still has it.
func (l *resultQueue) done(seq uint64) bool {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	return seq <= l.scanned && l.held[seq] == nil
}

// acknowledge frees the queue up to the first entry that is held, and writes down what is
// dealt with behind it.
func (l *resultQueue) acknowledge() error {
	l.s.mu.Lock()
	upTo, behind := l.scanned, l.record()
	for seq := range l.held {
		upTo = min(upTo, seq-1)
	}
	l.s.mu.Unlock()
	if err := l.writeDown(behind); err != nil {
		l.s.Set.Announcer.Warn("delivered results may be sent again after a restart", "error", err)
	}
	if upTo <= l.s.Store.Stats().Acked {
		return nil
	}
	if err := l.s.Store.Ack(upTo); err != nil {
		return l.postpone(err)
	}
	return nil
}

// heldRecord is what a restart has to know.
type heldRecord struct {
	Scanned uint64     `json:"scanned"`
	Newest  string     `json:"newest"` // the hash of that entry
	Held    []heldNote `json:"held"`
}

type heldNote struct {
	Seq    uint64 `json:"seq"`
	Tries  int    `json:"tries"`
	Proofs int    `json:"proofs"`
	// Hash is that of the entry: numbers can start over when a queue is lost.
	Hash string `json:"hash"`
}

// record is what to write down; the shipper's mu is locked.
func (l *resultQueue) record() heldRecord {
	out := heldRecord{Scanned: l.scanned, Newest: l.newest}
	for seq, h := range l.held {
		out.Held = append(out.Held, heldNote{seq, h.tries, h.proofs, h.hash})
	}
	return out
}

// writeDown writes what a restart has to know, if that is anything new: while nothing is
// held, the queue itself holds all.
func (l *resultQueue) writeDown(r heldRecord) error {
	if len(r.Held) == 0 {
		return nil
	}
	slices.SortFunc(r.Held, func(a, b heldNote) int { return cmp.Compare(a.Seq, b.Seq) })
	text, err := json.Marshal(r)
	if err != nil || string(text) == l.written {
		return err
	}
	l.written = string(text)
	return WriteFileAtomic(l.path, text)
}

// restore reads what was written down, for the queue as it was opened.
func (l *resultQueue) restore() {
	l.acceptedCount, l.streak = 0, 0
	l.backoff.Reset()
	l.s.mu.Lock()
	l.scanned, l.newest, l.written, l.held = 0, "", "", map[uint64]*heldEntry{}
	l.s.mu.Unlock()
	text, err := ReadFileBounded(l.path, 1<<20)
	var r heldRecord
	if err != nil || json.Unmarshal(text, &r) != nil || !l.has(r.Scanned, r.Newest) {
		return // at worst, what was delivered is sent again
	}
	held := map[uint64]*heldEntry{}
	for _, n := range r.Held {
		if l.has(n.Seq, n.Hash) {
			held[n.Seq] = &heldEntry{tries: n.Tries, proofs: n.Proofs, hash: n.Hash}
		}
	}
	if len(held) == 0 {
		return
	}
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	l.scanned, l.newest, l.held = r.Scanned, r.Newest, held
}

// has reports whether the queue has that very entry.
func (l *resultQueue) has(seq uint64, hash string) bool {
	if seq == 0 {
		return false
	}
	b, err := l.s.Store.Read(seq-1, 1, 0)
	return err == nil && b.First == seq && hashOf(b.Lines[0]) == hash
}

func hashOf(line []byte) string {
	sum := sha256.Sum256(line)
	return hex.EncodeToString(sum[:])
}
