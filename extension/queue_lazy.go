package extension

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/osqvisor/osqvisor/internal/spool"
	"github.com/osqvisor/osqvisor/stats"
)

// WithDeferredQueues makes New open no queue: whoever owns the extension calls
// [Extension.OpenQueues] before Run and CloseQueues after it, and so decides when
// the instance's directory is in use. Two extensions for one directory can then
// exist, as long as they take turns, which the owner has to see to: a queue has no
// files, and keeps nobody out, before its first line.
func WithDeferredQueues() Option {
	return ownersOption("WithDeferredQueues", "", func(s *settings) { s.deferred = true })
}

// OpenQueues opens the queues that are not open. The error says which one cannot be;
// then none is open. It must not be called while Run, Flush or CloseQueues is under way.
func (e *Extension) OpenQueues() error {
	err := e.eachQueue(func(s *shipper) error {
		q, ok := s.q.(*lazyQueue)
		if !ok || q.isOpen() {
			return nil
		}
		if err := q.reopen(); err != nil {
			return err
		}
		return s.resume()
	})
	if err != nil {
		return errors.Join(err, e.CloseQueues())
	}
	return nil
}

// AdoptQueues brings along the queues of the extension's former directory dir: call it before OpenQueues, when nobody else
// uses dir. What cannot be moved is announced by a stats.QueueLeft, stays where it is, and is in the error; the same call may
// be made again.
func (e *Extension) AdoptQueues(ctx context.Context, dir string) error {
	if _, err := os.Lstat(filepath.Join(dir, "queue")); errors.Is(err, fs.ErrNotExist) || dir == e.set.dir {
		return nil
	}
	return e.eachQueue(func(s *shipper) error {
		from, to := queueDir(dir, s.name), queueDir(e.set.dir, s.name)
		lost := func(l spool.Loss) { e.lost(s.name, l) }
		err := spool.Move(ctx, from, to, spoolOptions(e.set.log, s.set.lineBytes, lost))
		if err != nil {
			e.drops.tell(func(h stats.Head) stats.Event {
				return stats.QueueLeft{Head: h, Queue: string(s.name), Dir: dir, Err: err}
			})
			e.wake()
		}
		return err
	})
}

// CloseQueues closes the queues until the next OpenQueues. Lines that come meanwhile
// are lost, and counted so; Pending goes on telling what was left. It must not be
// called while Run or Flush is under way. Later calls do nothing.
func (e *Extension) CloseQueues() error {
	return e.eachQueue(func(s *shipper) error { return s.q.Close() })
}

// eachQueue does something with all queues at the same time: each waits for the
// disk, and a run can neither start nor end before the last.
func (e *Extension) eachQueue(do func(*shipper) error) error {
	errs := make([]error, len(e.shippers))
	var wait sync.WaitGroup
	for i, s := range e.shippers {
		wait.Go(func() { errs[i] = do(s) })
	}
	wait.Wait()
	return errors.Join(errs...)
}

// resume begins with what the queue holds now: somebody else may have had it.
func (s *shipper) resume() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*returnGrace)
	defer cancel()
	if err := s.busy.take(ctx); err != nil {
		return fmt.Errorf("open the %s queue: a delivery of the last run: %w", s.name, errNotReturned)
	}
	defer s.busy.free()
	st := s.q.Stats()
	s.step.flight, s.step.settled, s.step.doubt = nil, false, doubt{}
	s.step.recalled = false
	if s.live != nil {
		s.live.restore()
	}
	s.alert.Store(st.Records == 0)
	s.told.Store(false)
	s.mu.Lock()
	s.ages = nil
	s.ages.note(time.Now(), max(st.Acked, st.Evicted))
	s.mu.Unlock()
	s.lines.Store(int64(st.Records))
	s.bytes.Store(max(0, st.Bytes))
	s.flying.Store(st.Pinned > st.Acked)
	return nil
}

// lazyQueue is a queue that can be opened again after it was closed. Opening and
// closing are the owner's alone; everything else is safe at any time. While nothing was
// ever queued it makes no files: most instances never use all of their queues, and files
// are most of what a first start costs.
type lazyQueue struct {
	open  func() (queue, error)
	fresh func() bool // nothing of the queue is on disk; nil stands for never

	now  atomic.Pointer[queue]       // nil while closed or blank
	last atomic.Pointer[spool.Stats] // of before the close

	mu    sync.Mutex  // held to open and to close
	blank atomic.Bool // open, and without files until the first line; changed under mu
}

func (l *lazyQueue) isOpen() bool { return l.now.Load() != nil || l.blank.Load() }

func (l *lazyQueue) reopen() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fresh != nil && l.fresh() {
		l.last.Store(nil) // of files that are gone, if there were any
		l.blank.Store(true)
		return nil
	}
	_, err := l.openNow()
	return err
}

// openNow opens the queue; l.mu is held.
func (l *lazyQueue) openNow() (queue, error) {
	q, err := l.open()
	if err != nil {
		return nil, err
	}
	l.now.Store(&q)
	l.blank.Store(false)
	return q, nil
}

// files gives the open queue, whose files it makes if there are none yet.
func (l *lazyQueue) files() (queue, error) {
	if q := l.now.Load(); q != nil {
		return *q, nil
	}
	if !l.blank.Load() {
		return nil, spool.ErrClosed
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if q := l.now.Load(); q != nil {
		return *q, nil
	}
	if !l.blank.Load() {
		return nil, spool.ErrClosed
	}
	return l.openNow()
}

// Append fails with spool.ErrClosed while the queue is closed, as do Read, Ack and Pin.
func (l *lazyQueue) Append(line []byte) (uint64, error) {
	q, err := l.files()
	if err != nil {
		return 0, err
	}
	return q.Append(line)
}

// Read finds nothing in a queue without files.
func (l *lazyQueue) Read(after uint64, maxRecords, maxBytes int) (spool.Batch, error) {
	if q := l.now.Load(); q != nil {
		return (*q).Read(after, maxRecords, maxBytes)
	}
	if l.blank.Load() {
		return spool.Batch{}, nil
	}
	return spool.Batch{}, spool.ErrClosed
}

func (l *lazyQueue) Ack(last uint64) error {
	q, err := l.files()
	if err != nil {
		return err
	}
	return q.Ack(last)
}

func (l *lazyQueue) Pin(last uint64) error {
	q, err := l.files()
	if err != nil {
		return err
	}
	return q.Pin(last)
}

// Stats gives the last ones while the queue is closed.
func (l *lazyQueue) Stats() spool.Stats {
	if q := l.now.Load(); q != nil {
		return (*q).Stats()
	}
	if st := l.last.Load(); st != nil {
		return *st
	}
	return spool.Stats{}
}

// Close closes the queue until it is opened again.
func (l *lazyQueue) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.blank.Store(false)
	q := l.now.Load()
	if q == nil {
		return nil
	}
	st := (*q).Stats()
	l.last.Store(&st)
	l.now.Store(nil)
	return (*q).Close()
}
