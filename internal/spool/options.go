package spool

import (
	"errors"
	"fmt"
	"time"
)

// Defaults of Options.
const (
	DefaultMaxBytes     = 64 << 20
	DefaultSegmentBytes = 4 << 20
	DefaultMaxRecord    = 1 << 20
	DefaultSyncInterval = time.Second
)

const (
	minSegmentBytes = 256
	formatMaxRecord = 64 << 20 // no reader accepts more, whatever the options of the writer were
)

type syncKind uint8

const (
	syncDefault syncKind = iota
	syncEach
	syncInterval
	syncNever
)

// SyncPolicy is when lines are flushed to disk, so that they survive a power cut. The zero value is
// SyncInterval(DefaultSyncInterval).
type SyncPolicy struct {
	kind  syncKind
	every time.Duration
}

// SyncEach flushes before Append returns.
func SyncEach() SyncPolicy { return SyncPolicy{kind: syncEach} }

// SyncInterval flushes at most d after a line was written; d must be positive. A power cut costs the lines of the last d.
func SyncInterval(d time.Duration) SyncPolicy { return SyncPolicy{kind: syncInterval, every: d} }

// SyncNever leaves flushing the lines to the operating system. After a power cut, those of the last half minute or so may be
// gone, and those of them that were pinned are reported missing, delivered or not. Pins are flushed all the same.
func SyncNever() SyncPolicy { return SyncPolicy{kind: syncNever} }

// Reason is why lines are missing.
type Reason uint8

// The reasons.
const (
	// Evicted lines were the oldest when MaxBytes was reached.
	Evicted Reason = iota + 1
	// Damaged lines can no longer be read from the disk.
	Damaged
)

// String returns the reason in one lower-case word.
func (r Reason) String() string {
	switch r {
	case Evicted:
		return "evicted"
	case Damaged:
		return "damaged"
	}
	return "unknown"
}

// Loss is an announcement that lines which had been stored are gone.
type Loss struct {
	Reason  Reason
	First   uint64 // first sequence number of the range
	Last    uint64 // last sequence number of the range
	Records uint64 // unacknowledged lines lost in the range
	Bytes   int64  // bytes of the segment that was deleted; 0 when not known
}

// Full is what a full queue does.
type Full uint8

const (
	// EvictOldest deletes the oldest segment for a new line.
	EvictOldest Full = iota
	// RefuseNewest keeps what is stored and refuses new lines with ErrFull.
	RefuseNewest
)

// Options of a Queue. The zero value of a field means its default.
type Options struct {
	// MaxBytes bounds the segment files together. Default DefaultMaxBytes; at least twice SegmentBytes.
	MaxBytes int64
	// SegmentBytes bounds one segment file, which is the unit of eviction. Default DefaultSegmentBytes, or a quarter of
	// MaxBytes if that is less; at least MaxRecord plus 20 bytes.
	SegmentBytes int64
	// MaxRecord bounds one line in bytes. Default DefaultMaxRecord, or what fits into SegmentBytes if that is less; at most
	// 64 MiB.
	MaxRecord int
	// Sync is when lines are flushed to disk. Default SyncInterval(DefaultSyncInterval).
	Sync SyncPolicy
	// Parents is how many of the directories above the queue's the program made as well. Their names are flushed with the
	// queue's own, which needs its parent at least. Default 1.
	Parents int
	// Full sets which lines go when the queue, or the Budget, is full. Default EvictOldest.
	Full Full
	// Budget, if set, bounds what all queues that have it hold together.
	Budget *Budget
	// OnLoss, if set, is called with stored lines that are lost after Open. It runs in the goroutine of the Append or Read
	// that found out, with no lock held, and may call any method of the Queue but Close. Calls may overlap.
	OnLoss func(Loss)

	fs fileSystem // tests put a failing disk here
}

// withDefaults returns o with its defaults filled in, and every mistake at once.
func (o Options) withDefaults() (Options, error) {
	if o.MaxBytes == 0 {
		o.MaxBytes = DefaultMaxBytes
	}
	if o.SegmentBytes == 0 {
		o.SegmentBytes = min(DefaultSegmentBytes, max(o.MaxBytes/4, minSegmentBytes))
	}
	if o.MaxRecord == 0 {
		o.MaxRecord = int(max(min(DefaultMaxRecord, o.SegmentBytes-headerSize), 1))
	}
	if o.Parents == 0 {
		o.Parents = 1
	}
	if o.Sync.kind == syncDefault {
		o.Sync = SyncInterval(DefaultSyncInterval)
	}
	if o.OnLoss == nil {
		o.OnLoss = func(Loss) {}
	}
	if o.fs == nil {
		o.fs = osFS{}
	}
	return o, o.check()
}

func (o Options) check() error {
	var errs []error
	if o.SegmentBytes < minSegmentBytes {
		errs = append(errs, fmt.Errorf("SegmentBytes is %d; it must be at least %d", o.SegmentBytes, minSegmentBytes))
	}
	if o.MaxBytes/2 < o.SegmentBytes {
		errs = append(errs, fmt.Errorf("MaxBytes is %d; it must be at least twice SegmentBytes (%d)", o.MaxBytes, o.SegmentBytes))
	}
	if o.MaxRecord < 1 || o.MaxRecord > formatMaxRecord {
		errs = append(errs, fmt.Errorf("MaxRecord is %d; it must be from 1 to %d", o.MaxRecord, formatMaxRecord))
	}
	if int64(o.MaxRecord) > o.SegmentBytes-headerSize {
		errs = append(errs, fmt.Errorf("MaxRecord is %d; with its header of %d it must fit into SegmentBytes (%d)",
			o.MaxRecord, headerSize, o.SegmentBytes))
	}
	if o.Parents < 1 {
		errs = append(errs, fmt.Errorf("option Parents is %d; it must be at least 1", o.Parents))
	}
	if o.Sync.kind == syncInterval && o.Sync.every <= 0 {
		errs = append(errs, fmt.Errorf("sync interval is %v; it must be positive", o.Sync.every))
	}
	return errors.Join(errs...)
}

// Errors that callers compare with errors.Is.
var (
	// ErrClosed is returned by every call after Close.
	ErrClosed = errors.New("spool is closed")
	// ErrLocked is returned by Open when another process, or this one, has the directory open.
	ErrLocked = errors.New("spool is in use by another opener; close that one first")
	// ErrTooLarge is returned by Append for a line above Options.MaxRecord. Nothing was stored.
	ErrTooLarge = errors.New("line is larger than the spool's record limit; raise MaxRecord or drop the line")
	// ErrNoSpace is returned by Append when the disk or a quota is full. Nothing was stored; a later Append works when there
	// is room.
	ErrNoSpace = errors.New("no space left for the spool; free disk space or lower MaxBytes")
	// ErrIO is returned when the disk failed in another way. Nothing was stored or changed; a later call may work.
	ErrIO = errors.New("spool input or output failed; check the disk")
	// ErrNotSynced is returned by Append and Sync when the flush failed. The lines are stored and will be read, but a power
	// cut may take them.
	ErrNotSynced = errors.New("spool could not be flushed to disk")
	// ErrSequence is returned by Ack and Pin for a number that was never handed out.
	ErrSequence = errors.New("sequence number was never appended")
)

// typed wraps err in the sentinel that names the kind of failure.
func typed(doing string, err error) error {
	if isNoSpace(err) {
		return fmt.Errorf("%s: %w: %w", doing, ErrNoSpace, err)
	}
	return fmt.Errorf("%s: %w: %w", doing, ErrIO, err)
}
