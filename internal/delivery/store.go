package delivery

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/internal/spool"
)

// Store is the durable queue under a shipper. *spool.Queue is one; tests put
// others here.
type Store interface {
	Append(line []byte) (seq uint64, err error)
	Read(after uint64, maxRecords, maxBytes int) (spool.Batch, error)
	Ack(last uint64) error
	Pin(last uint64) error
	Stats() spool.Stats
	Close() error
}

// QueueDistributed keeps distributed results until the transport accepted them. It
// is not one of the log queues: its lines are osqueryd's whole writes.
const QueueDistributed extension.Queue = "distributed"

// spoolOptions works out a queue's options. A line has to fit into a segment, and
// a segment twice into the queue.
func spoolOptions(s *Settings, onLoss func(spool.Loss)) spool.Options {
	l := s.Logs
	o := spool.Options{
		MaxBytes: l.QueueBytes, MaxRecord: l.LineLimit, Sync: syncPolicy(l.Sync), OnLoss: onLoss, Parents: queueParents,
	}
	if l.WhenFull == extension.RefuseNewest {
		o.Full = spool.RefuseNewest
	}
	if s.Budget != nil {
		o.Budget = s.Budget.b
	}
	o.SegmentBytes = max(min(spool.DefaultSegmentBytes, l.QueueBytes/4), int64(l.LineLimit)+LineRoom)
	return o
}

// syncPolicy returns what Logs.Sync means to a queue.
func syncPolicy(every time.Duration) spool.SyncPolicy {
	switch {
	case every == extension.SyncEachLine:
		return spool.SyncEach()
	case every > 0:
		return spool.SyncInterval(every)
	default:
		return spool.SyncNever()
	}
}

// LineRoom is what a line needs in a queue beside itself.
const LineRoom = 64

// queueParents are the directories above a queue that may be new with it: queue/, the instance's, the root, and what the
// root's name is in.
const queueParents = 4

// QueueDir returns the directory of a queue in an instance's.
func QueueDir(dir string, name extension.Queue) string {
	return filepath.Join(dir, "queue", string(name))
}

// neverQueued means that nothing was ever queued there.
func neverQueued(dir string, name extension.Queue) bool {
	_, err := os.Lstat(QueueDir(dir, name))
	return errors.Is(err, fs.ErrNotExist)
}

// openQueue opens the queue called name in the instance's directory.
func openQueue(dir string, name extension.Queue, o spool.Options) (Store, spool.Recovery, error) {
	q, found, err := spool.Open(QueueDir(dir, name), o)
	if err != nil {
		return nil, found, fmt.Errorf("open the %s queue: %w", name, err)
	}
	return q, found, nil
}

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

// files returns the open queue, whose files it makes if there are none yet.
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

// Stats returns the last ones while the queue is closed.
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

// damages keeps apart what damage of a queue was announced and what is news: a queue
// that is opened again finds the same damage until what is around it was delivered.
type damages struct {
	mu   sync.Mutex
	upTo uint64 // the last line that was announced as damaged

	bytes, missing int64 // of the last report
}

// unheard reports whether an opening found more damage than the one before.
func (d *damages) unheard(found spool.Recovery) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	bytes, missing := d.bytes, d.missing
	d.bytes, d.missing = found.DamagedBytes, int64(min(found.Missing, math.MaxInt64))
	return found.CursorLost || found.CutBytes > 0 || d.bytes > bytes || d.missing > missing
}

// noted remembers what the open queue announces by itself.
func (d *damages) noted(l spool.Loss) {
	if l.Reason != spool.Damaged {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.upTo = max(d.upTo, l.Last)
}

// news returns how many of the lines that an opening found missing were not announced.
func (d *damages) news(found spool.Recovery) uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.upTo == 0 && found.Damages > len(found.Damaged) { // the report is cut short, its sum is not
		d.upTo = found.Next - 1
		return found.Missing
	}
	n, last := uint64(0), d.upTo
	for _, r := range found.Damaged {
		if first := max(r.First, d.upTo+1); r.First > 0 && first <= r.Last {
			n += r.Last - first + 1
		}
		last = max(last, r.Last)
	}
	d.upTo = last
	return n
}

// Defaults of DiskLimits.
const (
	defaultDiskBytes = 4 << 30
	defaultMinFree   = 1 << 30
)

// Budget is what [DiskLimits] become in a process; instances share one.
type Budget struct{ b *spool.Budget }

// NewBudget makes a budget for any number of extensions.
func NewBudget(l extension.DiskLimits) *Budget {
	if l.Bytes == 0 {
		l.Bytes = defaultDiskBytes
	}
	var minFree func(int64) int64
	switch {
	case l.MinFree == 0:
		minFree = func(total int64) int64 { return min(total/20, defaultMinFree) }
	case l.MinFree > 0:
		minFree = func(int64) int64 { return l.MinFree }
	}
	return &Budget{spool.NewBudget(max(0, l.Bytes), minFree)}
}

// Used returns how many bytes the queues hold that were opened with this budget.
func (d *Budget) Used() int64 { return d.b.Used() }
