package delivery

import (
	"math"
	"sync"

	"github.com/osqvisor/osqvisor/internal/spool"
)

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

// news gives how many of the lines that an opening found missing were not announced.
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
