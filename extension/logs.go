package extension

import (
	"crypto"
	"time"
)

// Logs sets how an instance's log lines are queued on disk and delivered. A field that is zero
// stands for its default.
type Logs struct {
	// BatchLines and BatchBytes bound a batch. The defaults are 1000 lines and 1 MiB; a line that
	// is longer goes alone. Lower BatchBytes for a server that refuses large requests.
	BatchLines, BatchBytes int
	// BatchAge is how long a line waits for others to join its batch. The default is 2 s; a
	// negative value sends at once.
	BatchAge time.Duration
	// LineLimit bounds a single line, in bytes; a longer one is dropped and announced. The default
	// is 8 MiB, or a quarter of QueueBytes if that is less; at most 64 MiB, and a line has to fit
	// into a queue twice.
	LineLimit int
	// QueueBytes bounds each of the four queues on disk (results, snapshots, status, distributed
	// results): 1 MiB or more, 64 MiB by default, so that an instance keeps up to 256 MiB, and 16
	// MiB of dead letters. Raise it to survive longer outages. What all instances of a Runner keep
	// together is bounded by [DiskLimits].
	QueueBytes int64
	// WhenFull sets which lines are lost when a queue is full. The default is DropOldest.
	WhenFull FullQueue
	// DeadLetterBytes bounds, for each queue, the file of lines and results that were given up
	// (see [Delivery]): queue/QUEUE.dead and, for the older half, .dead.1, of mode 0600. The
	// default is 4 MiB; a negative value keeps none.
	DeadLetterBytes int64
	// BackfillRate bounds how fast a backlog is sent after an outage, in bytes a second for each
	// queue. A queue that is not behind is not held up. The default, 0, sets no bound.
	BackfillRate int64
	// Sync is how often appended lines are flushed to the disk, or [SyncEachLine] or [SyncNever].
	// A line survives the death of every process in any case; Sync is about a power cut, which
	// loses what came since the last flush. The default is every second.
	Sync time.Duration
	// Signer signs every batch; see [Verify]. Its key is an Ed25519, ECDSA or RSA one, and it may
	// be called from several goroutines. The default is none.
	Signer crypto.Signer
	// RawEvents makes osqueryd forward every event of its event publishers to the logger as it
	// happens, beside the results of queries on event tables. They go to the results queue.
	RawEvents bool
	// Delivery sets how calls are repeated and when lines are given up.
	Delivery Delivery
}

// Delivery sets how the calls of a [Transport] are bounded and repeated, and when a line or a result
// that the server goes on refusing is given up. A field that is zero stands for its default.
//
// An outage of the server, of days too, costs nothing but what Logs.QueueBytes forces out. A batch of
// logs that was refused MaxAttempts times in a row and for MaxAge comes under suspicion: a line
// behind it is sent ahead, by itself. When that is refused as well, the server is down, and the
// batch waits on. When it is accepted, the batch is cut in half, again and again, until the refused
// line is alone; it is given up when it was refused three times, each time right after the server
// had accepted another line of the same queue. Then it is counted, announced by stats.LogsDropped
// and kept as a dead letter (Logs.DeadLetterBytes). [ErrPermanent], and [ErrTooLarge] for one line,
// need no such proof.
//
// Results of distributed queries do not wait for one another. One is given up when the
// server refused it MaxAttempts times, at least three of them after it had accepted another one, or
// when it is older than ResultMaxAge.
type Delivery struct {
	// Timeout bounds each call of the transport: configs, queries and enrolments too. A batch of
	// logs that ran into it gets more time at its next try, up to eight times as much. The default
	// is 1 minute.
	Timeout time.Duration
	// FirstWait and LongestWait are the waits between tries of a failing transport. They grow
	// exponentially, with jitter, from the first to the longest. The defaults are 1 s and 5 minutes.
	FirstWait, LongestWait time.Duration
	// MaxAttempts is how often a batch, or a distributed result, is refused before it comes
	// under suspicion: 2 or more, 10 by default.
	MaxAttempts int
	// MaxAge is for how long a batch is refused before it comes under suspicion. The default
	// is 10 minutes.
	MaxAge time.Duration
	// ResultMaxAge is the age from which nobody waits for the result of a distributed query.
	// It must be a second or more; the default is 24 h.
	ResultMaxAge time.Duration
}

// DiskLimits bound how much of a host's disk the queues of all its instances use, whatever the limit
// of each is (see Logs.QueueBytes). Dead letters are not counted; they have their own limit.
type DiskLimits struct {
	// Bytes is how much the queues hold together, on all file systems. Half of it is for whoever comes first, the other half is split
	// evenly between the queues. 0 stands for 4 GiB, less than 0 for no limit.
	Bytes int64
	// MinFree is how many bytes of a file system the queues leave free. While less is, a queue does not grow. 0 stands for a
	// twentieth of the file system, at most 1 GiB; less than 0 for nothing.
	MinFree int64
}

// FullQueue is what happens to lines when a queue is full, or all queues of the host are. Either way what is lost is counted
// and announced, and osqueryd never notices.
type FullQueue int

const (
	// DropOldest deletes the oldest lines, some megabytes at a time. It is the default.
	DropOldest FullQueue = iota
	// RefuseNewest keeps what is queued, and loses new lines until there is room.
	RefuseNewest
)

// Values of Logs.Sync that are no interval.
const (
	// SyncEachLine flushes before osqueryd is answered: a power cut loses nothing, and each line
	// costs a flush of the disk.
	SyncEachLine time.Duration = 1
	// SyncNever leaves flushing to the operating system: a power cut loses what came in the last
	// half minute or so. Each batch still costs one flush, of what keeps its id unique.
	SyncNever time.Duration = -1
)
