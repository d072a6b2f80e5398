package stats

import "slices"

// history is a ring of the newest runs that ended. It grows to its limit as
// runs end, so that an instance that never fails costs nothing.
type history struct {
	limit int
	runs  []Run
	next  int // where the next run goes once the ring is full
}

func (h *history) add(r Run) {
	switch {
	case h.limit == 0:
	case len(h.runs) < h.limit:
		h.runs = append(h.runs, r)
	default:
		h.runs[h.next] = r
		h.next = (h.next + 1) % h.limit
	}
}

// resize changes the limit and keeps the newest runs.
func (h *history) resize(limit int) {
	runs := h.newestFirst()
	runs = runs[:min(len(runs), limit)]
	slices.Reverse(runs)
	*h = history{limit: limit, runs: runs}
}

// newestFirst gives a copy, or nil when there is none.
func (h *history) newestFirst() []Run {
	n := len(h.runs)
	if n == 0 {
		return nil
	}
	out := make([]Run, n)
	for i := range out {
		out[i] = h.runs[(h.next+2*n-1-i)%n]
	}
	return out
}

func (h *history) has(id string) bool {
	for i := range h.runs {
		if h.runs[i].ID == id {
			return true
		}
	}
	return false
}
