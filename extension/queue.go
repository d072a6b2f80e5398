package extension

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/osqvisor/osqvisor/internal/spool"
)

// queue is the durable queue under a shipper. *spool.Queue is one; tests put
// others here.
type queue interface {
	Append(line []byte) (seq uint64, err error)
	Read(after uint64, maxRecords, maxBytes int) (spool.Batch, error)
	Ack(last uint64) error
	Pin(last uint64) error
	Stats() spool.Stats
	Close() error
}

// queueDistributed keeps distributed results until the transport took them. It
// is not one of the log queues: its lines are osqueryd's whole writes.
const queueDistributed Queue = "distributed"

// spoolOptions works out a queue's options. A line has to fit into a segment, and
// a segment twice into the queue.
func spoolOptions(l logSettings, lineBytes int, onLoss func(spool.Loss)) spool.Options {
	o := spool.Options{
		MaxBytes: l.queueBytes, MaxRecord: lineBytes, Sync: l.sync.policy(), OnLoss: onLoss, Parents: queueParents,
		Full: l.full, Budget: l.budget,
	}
	o.SegmentBytes = max(min(spool.DefaultSegmentBytes, l.queueBytes/4), int64(lineBytes)+lineRoom)
	return o
}

func (p Sync) policy() spool.SyncPolicy {
	switch {
	case p.each:
		return spool.SyncEach()
	case p.timed && p.every > 0:
		return spool.SyncInterval(p.every)
	default:
		return spool.SyncNever()
	}
}

// queueParents are the directories above a queue that may be new with it: queue/, the instance's, the root, and what the
// root's name is in.
const queueParents = 4

func queueDir(dir string, name Queue) string { return filepath.Join(dir, "queue", string(name)) }

// neverQueued says that nothing was ever queued there.
func neverQueued(dir string, name Queue) bool {
	_, err := os.Lstat(queueDir(dir, name))
	return errors.Is(err, fs.ErrNotExist)
}

// openQueue opens the queue called name in the instance's directory.
func openQueue(dir string, name Queue, o spool.Options) (queue, spool.Recovery, error) {
	q, found, err := spool.Open(queueDir(dir, name), o)
	if err != nil {
		return nil, found, fmt.Errorf("open the %s queue: %w", name, err)
	}
	return q, found, nil
}
