package tlstrial

import (
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/osqvisor/osqvisor/internal/soak"
)

// Report is what the trial found. Each number is measured.
type Report struct {
	// Produced counts lines that were acknowledged to osqueryd. A line that arrived
	// although a kill came before its acknowledgement is among them.
	Produced     int    `json:"lines_produced"`
	Delivered    int    `json:"lines_delivered"`
	Lost         int    `json:"lost"`
	Duplicates   int    `json:"duplicates_after_dedupe"` // in batches of different ids
	OutOfOrder   int    `json:"out_of_order"`
	Queries      int    `json:"distributed_queries"` // that were answered
	Reenrolments int    `json:"reenrolments"`
	OK           bool   `json:"ok"`
	Error        string `json:"error,omitempty"`
}

func (r *Report) count(v soak.Verdict) {
	r.Produced, r.Delivered, r.Lost = v.Produced, v.Delivered, v.Lost
	r.Duplicates, r.OutOfOrder = v.Duplicates+v.Changed, v.OutOfOrder
}

// conclude decides whether all went as it should.
func (r *Report) conclude(err error) {
	if err != nil {
		r.Error = err.Error()
	}
	r.OK = err == nil && r.Produced > 0 && r.Lost == 0 && r.Duplicates == 0 && r.OutOfOrder == 0
}

func (r *Report) write(w io.Writer, asJSON bool) error {
	var err error
	if asJSON {
		err = json.NewEncoder(w).Encode(r)
	} else {
		verdict := "all as it should be"
		if !r.OK {
			verdict = "NOT as it should be"
		}
		_, err = fmt.Fprintf(w, "%s: of %d lines %d were delivered, %d lost, %d came twice, %d out of order; "+
			"%d distributed queries answered; enrolled again %d times\n",
			verdict, r.Produced, r.Delivered, r.Lost, r.Duplicates, r.OutOfOrder, r.Queries, r.Reenrolments)
	}
	if err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

// progress prints what happens. It is safe for concurrent use.
type progress struct {
	mu    sync.Mutex
	out   io.Writer
	begin time.Time
}

func newProgress(out io.Writer) *progress { return &progress{out: out, begin: time.Now()} }

func (p *progress) line(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(p.out, "%5.1fs  %s\n", time.Since(p.begin).Seconds(), fmt.Sprintf(format, args...))
}
