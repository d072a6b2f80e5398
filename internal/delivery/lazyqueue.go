package delivery

import (
	"sync"
	"sync/atomic"

	"github.com/osqvisor/osqvisor/internal/spool"
)

// lazyQueue is a queue that can be opened again after it was closed. Opening and
// closing are the owner's alone; everything else is safe at any time. While nothing was
// ever queued it makes no files: most instances never use all of their queues, and files
// are most of what a first start costs.
type lazyQueue struct {
	open  func() (Store, error)
	fresh func() bool // nothing of the queue is on disk; nil stands for never

	now  atomic.Pointer[Store]       // nil while closed or blank
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
func (l *lazyQueue) openNow() (Store, error) {
	q, err := l.open()
	if err != nil {
		return nil, err
	}
	l.now.Store(&q)
	l.blank.Store(false)
	return q, nil
}

// files gives the open queue, whose files it makes if there are none yet.
func (l *lazyQueue) files() (Store, error) {
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
