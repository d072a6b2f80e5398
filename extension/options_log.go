package extension

import (
	"time"

	"github.com/osqvisor/osqvisor/internal/spool"
)

// logSettings is what the options say about queues and batches.
type logSettings struct {
	lines      int
	bytes      int
	age        time.Duration
	queueBytes int64
	lineBytes  int // 0: worked out from queueBytes
	deadBytes  int64
	sync       Sync
	budget     *spool.Budget // nil: none
	full       spool.Full
	backfill   int64 // bytes a second, 0 for no limit
	minBackoff time.Duration
	maxBackoff time.Duration
}

func defaultLogSettings() logSettings {
	return logSettings{
		lines: 1000, bytes: 1 << 20, age: 2 * time.Second,
		queueBytes: 64 << 20, deadBytes: 4 << 20,
		sync:       SyncEvery(time.Second),
		minBackoff: time.Second, maxBackoff: 5 * time.Minute,
	}
}

// Sync says when appended log lines are flushed to the disk. Whatever it says, a
// line survives the death of every process; Sync is about a power cut.
type Sync struct {
	each  bool
	timed bool
	every time.Duration
}

// SyncEachLine flushes before osqueryd is answered: nothing is lost to a power
// cut, and each line costs a disk flush.
func SyncEachLine() Sync { return Sync{each: true} }

// SyncEvery flushes every d, which is above 0: a power cut loses at most what came
// within d.
func SyncEvery(d time.Duration) Sync { return Sync{timed: true, every: d} }

// SyncNever leaves flushing lines to the operating system: a power cut loses what came in
// the last half minute or so. Each batch still costs one flush, of what keeps its id unique.
func SyncNever() Sync { return Sync{} }

// WithSync sets when log lines are flushed to the disk. The default is every second.
func WithSync(p Sync) Option {
	return optionFunc(func(s *settings) {
		s.log.sync = p
		if p.timed && p.every <= 0 {
			s.reject("WithSync", "an interval of %v; use SyncNever to leave it to the system", p.every)
		}
	})
}

// WithLogBatch bounds batches of logs: at most so many lines and so many bytes,
// and no line waits longer than age for others to join it (0 sends at once). A
// line longer than bytes goes alone. The defaults are 1000 lines, 1 MiB and 2 s.
func WithLogBatch(lines, bytes int, age time.Duration) Option {
	return optionFunc(func(s *settings) {
		s.log.lines, s.log.bytes, s.log.age = lines, bytes, age
		if lines < 1 {
			s.reject("WithLogBatch", "%d lines; a batch holds at least 1", lines)
		}
		if bytes < 1 {
			s.reject("WithLogBatch", "%d bytes; a batch holds at least 1", bytes)
		}
		if age < 0 {
			s.reject("WithLogBatch", "an age of %v; give 0 to send at once", age)
		}
	})
}

// WithQueueLimit bounds each of the instance's queues on disk (results, snapshots,
// status, distributed results), in bytes. When one is full its oldest lines are
// dropped, counted and announced. The default is 64 MiB; the least is 1 MiB. There are four,
// so that by default an instance keeps up to 256 MiB, and 16 MiB of dead letters. What all instances
// of a host keep together is bounded by a [DiskBudget], which a Runner has by default; what else
// a full queue can do is set by [WithFullQueue].
func WithQueueLimit(bytes int64) Option {
	return optionFunc(func(s *settings) {
		s.log.queueBytes = bytes
		if bytes < 1<<20 {
			s.reject("WithQueueLimit", "%d bytes; a queue needs at least 1048576", bytes)
		}
	})
}

// WithLineLimit bounds a single log line, in bytes; a longer one is dropped and
// announced. It must fit into a queue twice. The default is 8 MiB, or a quarter of
// the queue if that is less.
func WithLineLimit(bytes int) Option {
	return optionFunc(func(s *settings) {
		s.log.lineBytes = bytes
		if bytes < 1 {
			s.reject("WithLineLimit", "%d bytes; no line would fit", bytes)
		}
	})
}

// WithDeadLetterLimit bounds, for each queue, the file of lines and results that were given
// up, in bytes (see [Delivery]): queue/QUEUE.dead and, for the older half, .dead.1, of
// mode 0600. 0 keeps none. The default is 4 MiB.
func WithDeadLetterLimit(bytes int64) Option {
	return optionFunc(func(s *settings) {
		s.log.deadBytes = bytes
		if bytes < 0 {
			s.reject("WithDeadLetterLimit", "%d bytes; give 0 to keep none", bytes)
		}
	})
}

// WithBackfillRate bounds how fast a backlog is sent after an outage, in bytes a
// second for each queue. A queue that is not behind is not held up. 0, the
// default, sets no bound.
func WithBackfillRate(bytesPerSecond int64) Option {
	return optionFunc(func(s *settings) {
		s.log.backfill = bytesPerSecond
		if bytesPerSecond < 0 {
			s.reject("WithBackfillRate", "%d bytes a second; give 0 for no bound", bytesPerSecond)
		}
	})
}

// WithBackoff sets the first and the longest wait between tries of a failing
// transport. The waits grow exponentially, with jitter. The defaults are 1 s and
// 5 minutes.
func WithBackoff(first, longest time.Duration) Option {
	return optionFunc(func(s *settings) {
		s.log.minBackoff, s.log.maxBackoff = first, longest
		s.positive("WithBackoff", first)
		if longest < first {
			s.reject("WithBackoff", "the longest wait %v is shorter than the first, %v", longest, first)
		}
	})
}

// WithRawEvents makes osqueryd forward every event of its event publishers to
// the logger as it happens, beside the results of queries on event tables. They
// go to the results queue. The default is off.
func WithRawEvents(on bool) Option {
	return optionFunc(func(s *settings) { s.rawEvents = on })
}

// lineRoom is what a line needs in a queue beside itself.
const lineRoom = 64

// settle works out what the options left open, and checks what depends on two.
func (l *logSettings) settle(s *settings) {
	if l.lineBytes == 0 {
		l.lineBytes = int(min(8<<20, l.queueBytes/4))
	} else if int64(l.lineBytes)+lineRoom > l.queueBytes/2 {
		s.reject("WithLineLimit", "%d bytes; a queue of %d bytes takes lines of at most %d", l.lineBytes, l.queueBytes,
			l.queueBytes/2-lineRoom)
	}
	if l.lineBytes > 64<<20 {
		s.reject("WithLineLimit", "%d bytes; a queue takes lines of at most 67108864", l.lineBytes)
	}
}
