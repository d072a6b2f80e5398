package spool

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// ErrFull is returned by Append when the queue may not grow and the oldest lines are not to make way. Nothing was stored.
var ErrFull = errors.New("spool is full; it works again when lines are acknowledged")

// lookEvery is how old an answer about free space may be.
const lookEvery = time.Second

// Budget bounds what many queues take of the disk together: all that were open once, until their directory is gone. Half of it is
// for whoever comes first, the other half is split evenly between the queues, so that a long outage of one's server leaves room
// for the others. All methods are safe for concurrent use.
type Budget struct {
	bytes   int64                      // 0: no bound
	minFree func(total int64) int64    // to be left on a file system of so many bytes
	space   func(dir string) diskSpace // tests put another disk here

	mu     sync.Mutex
	shares map[string]*share
	pruned time.Time
	used   atomic.Int64
	count  atomic.Int64
}

// diskSpace is what a file system has; total is 0 when it is not known.
type diskSpace struct{ free, total int64 }

// NewBudget makes a Budget of so many bytes, 0 for any number, which leaves what minFree returns for the size of the file
// system; nil leaves nothing.
func NewBudget(bytes int64, minFree func(total int64) int64) *Budget {
	return &Budget{bytes: bytes, minFree: minFree, space: spaceOf, shares: map[string]*share{}}
}

// Used returns the bytes that the queues hold.
func (b *Budget) Used() int64 { return b.used.Load() }

// share is one queue's part. Its numbers go on while the queue is closed: its files stay.
type share struct {
	b      *Budget
	dir    string
	held   atomic.Int64
	open   atomic.Bool
	looked atomic.Int64 // when, in nanoseconds since 1970
	low    atomic.Bool
}

// join returns the share of the queue in dir, which is now open and holds so many bytes. A nil Budget has nil shares, which
// bound nothing.
func (b *Budget) join(dir string, held int64) *share {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.shares[dir]
	if s == nil {
		s = &share{b: b, dir: dir}
		b.shares[dir] = s
		b.count.Add(1)
	}
	s.open.Store(true)
	b.used.Add(held - s.held.Swap(held))
	return s
}

func (s *share) add(n int64) {
	if s != nil {
		s.held.Add(n)
		s.b.used.Add(n)
	}
}

func (s *share) close() {
	if s != nil {
		s.open.Store(false)
	}
}

// fits reports whether the queue may grow by n bytes, as far as the sum is concerned.
func (s *share) fits(n int64) bool {
	if s == nil || s.b.bytes <= 0 {
		return true
	}
	half := s.b.bytes / 2
	return s.b.used.Load()+n <= half || s.held.Load()+n <= half/max(1, s.b.count.Load())
}

// isLow reports whether less is free than is to be left. It calls the system at most once a second.
func (s *share) isLow() bool {
	if s == nil || s.b.minFree == nil {
		return false
	}
	now, last := time.Now().UnixNano(), s.looked.Load()
	if since := now - last; since >= 0 && since < int64(lookEvery) || !s.looked.CompareAndSwap(last, now) {
		return s.low.Load()
	}
	d := s.b.space(s.dir)
	s.low.Store(d.total > 0 && d.free < s.b.minFree(d.total))
	return s.low.Load()
}

// prune forgets closed queues whose directory is gone, at most once a second. It is for when there is no room.
func (b *Budget) prune() {
	for _, s := range b.closed() {
		if _, err := os.Lstat(s.dir); errors.Is(err, fs.ErrNotExist) {
			b.forget(s)
		}
	}
}

func (b *Budget) closed() (out []*share) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if time.Since(b.pruned) < lookEvery {
		return nil
	}
	b.pruned = time.Now()
	for _, s := range b.shares {
		if !s.open.Load() {
			out = append(out, s)
		}
	}
	return out
}

func (b *Budget) forget(s *share) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.shares[s.dir] == s && !s.open.Load() {
		delete(b.shares, s.dir)
		b.count.Add(-1)
		b.used.Add(-s.held.Swap(0))
	}
}

// tooMuch reports whether a record of n bytes does not fit, after a look at the budget and the disk.
func (q *Queue) tooMuch(n int64) bool {
	if !q.share.fits(n) {
		q.share.b.prune()
	}
	low := q.share.isLow()
	q.mu.Lock()
	defer q.mu.Unlock()
	if !low {
		q.credit = 0
	}
	q.low = low
	return q.over(n)
}

// over reports whether n more bytes are too many; mu is locked. While the disk is low, a queue may write what it freed.
func (q *Queue) over(n int64) bool {
	return q.total+n > q.opts.MaxBytes || !q.share.fits(n) || q.low && q.credit < n
}

// grow notes that the queue holds n bytes more, or fewer; mu is locked.
func (q *Queue) grow(n int64) {
	q.total += n
	q.share.add(n)
	if q.low {
		q.credit -= n
	}
}

// errFull is why a line was refused though the disk would have stored it.
func errFull() error { return fmt.Errorf("append line: %w", ErrFull) }
