package extension

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/osqvisor/osqvisor/internal/spool"
)

// WithDeferredQueues makes New open no queue: whoever owns the extension calls
// [Extension.OpenQueues] before Run and CloseQueues after it, and so decides when
// the instance's directory is in use. Two extensions for one directory can then
// exist, as long as they take turns.
func WithDeferredQueues() Option {
	return optionFunc(func(s *settings) { s.deferred = true })
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
	s.step.flight, s.step.settled = nil, false
	s.alert.Store(st.Records == 0)
	s.told.Store(false)
	s.lines.Store(int64(st.Records))
	s.bytes.Store(max(0, st.Bytes))
	s.flying.Store(st.Pinned > st.Acked)
	return nil
}

// lazyQueue is a queue that can be opened again after it was closed. Opening and
// closing are the owner's alone; everything else is safe at any time.
type lazyQueue struct {
	open func() (queue, error)
	now  atomic.Pointer[queue]       // nil while closed
	last atomic.Pointer[spool.Stats] // of before the close
}

func (l *lazyQueue) isOpen() bool { return l.now.Load() != nil }

func (l *lazyQueue) reopen() error {
	q, err := l.open()
	if err != nil {
		return err
	}
	l.now.Store(&q)
	return nil
}

// Append fails with spool.ErrClosed while the queue is closed, as do Read, Ack and Pin.
func (l *lazyQueue) Append(line []byte) (uint64, error) {
	if q := l.now.Load(); q != nil {
		return (*q).Append(line)
	}
	return 0, spool.ErrClosed
}

func (l *lazyQueue) Read(after uint64, maxRecords, maxBytes int) (spool.Batch, error) {
	if q := l.now.Load(); q != nil {
		return (*q).Read(after, maxRecords, maxBytes)
	}
	return spool.Batch{}, spool.ErrClosed
}

func (l *lazyQueue) Ack(last uint64) error {
	if q := l.now.Load(); q != nil {
		return (*q).Ack(last)
	}
	return spool.ErrClosed
}

func (l *lazyQueue) Pin(last uint64) error {
	if q := l.now.Load(); q != nil {
		return (*q).Pin(last)
	}
	return spool.ErrClosed
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
	q := l.now.Load()
	if q == nil {
		return nil
	}
	st := (*q).Stats()
	l.last.Store(&st)
	l.now.Store(nil)
	return (*q).Close()
}
