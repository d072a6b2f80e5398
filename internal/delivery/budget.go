package delivery

import (
	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/internal/spool"
)

// Defaults of DiskLimits.
const (
	defaultDiskBytes = 4 << 30
	defaultMinFree   = 1 << 30
)

// DiskBudget is what [DiskLimits] become in a process; instances share one.
type Budget struct{ b *spool.Budget }

// NewDiskBudget makes a budget for any number of extensions.
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
