package delivery

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/internal/spool"
)

// queue is the durable queue under a shipper. *spool.Queue is one; tests put
// others here.
type Store interface {
	Append(line []byte) (seq uint64, err error)
	Read(after uint64, maxRecords, maxBytes int) (spool.Batch, error)
	Ack(last uint64) error
	Pin(last uint64) error
	Stats() spool.Stats
	Close() error
}

// queueDistributed keeps distributed results until the transport took them. It
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

// lineRoom is what a line needs in a queue beside itself.
const LineRoom = 64

// queueParents are the directories above a queue that may be new with it: queue/, the instance's, the root, and what the
// root's name is in.
const queueParents = 4

func QueueDir(dir string, name extension.Queue) string {
	return filepath.Join(dir, "queue", string(name))
}

// neverQueued says that nothing was ever queued there.
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
