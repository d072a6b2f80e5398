package extension

import "github.com/osqvisor/osqvisor/internal/spool"

// Defaults of DiskLimits.
const (
	// DefaultDiskBytes is what the queues of a host hold together.
	DefaultDiskBytes = 4 << 30
	// DefaultMinFree is the most that is left free: a twentieth of a smaller disk.
	DefaultMinFree = 1 << 30
)

// DiskLimits bound what all queues of a host take of its disk, whatever the limit of each is (see [WithQueueLimit]). Dead letters are
// not counted; they have their own limit.
type DiskLimits struct {
	// Bytes is how much the queues hold together, on all file systems. Half of it is for whoever comes first, the other half is split
	// evenly between the queues. 0 stands for 4 GiB, less than 0 for no limit.
	Bytes int64
	// MinFree is how many bytes of a file system the queues leave free. While less is, a queue does not grow. 0 stands for a
	// twentieth of the file system, at most 1 GiB; less than 0 for nothing.
	MinFree int64
}

// DiskBudget is what [DiskLimits] become in a process. Extensions share one by [WithDiskBudget].
type DiskBudget struct{ b *spool.Budget }

// NewDiskBudget makes a budget for any number of extensions.
func NewDiskBudget(l DiskLimits) *DiskBudget {
	if l.Bytes == 0 {
		l.Bytes = DefaultDiskBytes
	}
	var minFree func(int64) int64
	switch {
	case l.MinFree == 0:
		minFree = func(total int64) int64 { return min(total/20, DefaultMinFree) }
	case l.MinFree > 0:
		minFree = func(int64) int64 { return l.MinFree }
	}
	return &DiskBudget{spool.NewBudget(max(0, l.Bytes), minFree)}
}

// Used returns how many bytes the queues hold that were opened with this budget.
func (d *DiskBudget) Used() int64 { return d.b.Used() }

// WithDiskBudget makes the extension's queues part of a budget. Without it, only their own limits bound them.
func WithDiskBudget(d *DiskBudget) Option {
	return optionFunc(func(s *settings) {
		if d != nil {
			s.log.budget = d.b
		}
	})
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

// WithFullQueue sets which lines go when a queue is full. The default is DropOldest.
func WithFullQueue(f FullQueue) Option {
	return optionFunc(func(s *settings) {
		switch f {
		case DropOldest:
			s.log.full = spool.EvictOldest
		case RefuseNewest:
			s.log.full = spool.RefuseNewest
		default:
			s.reject("WithFullQueue", "%d is neither DropOldest nor RefuseNewest", f)
		}
	})
}
