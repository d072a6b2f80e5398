package delivery

import (
	"encoding/json"
	"math"
	"path/filepath"
	"time"

	"github.com/osqvisor/osqvisor/extension"
)

const (
	// proofs is how often a line must be refused right after the server accepted another one.
	proofs = 3
	// probeReach bounds how far behind a batch lines are tried.
	probeReach = 64
	// probeEvery is how often a line is sent ahead although no other call gets through either.
	probeEvery = 15 * time.Minute
	// provenFor is how long a queue that had a bad line is quick to suspect the next.
	provenFor = 24 * time.Hour
)

// doubt is the case against a batch that the server refuses. See ADR 9. Who holds the
// shipper's slot owns it.
type doubt struct {
	since    time.Time // the first refusal in a row
	refusals int       // in a row
	active   bool      // the batch is under suspicion
	upTo     uint64    // last line of the batch that it began with
	contrast bool      // another line of the queue was accepted since then
	fresh    bool      // another line was accepted after the last refusal
	turn     bool      // the batch is next, and not another probe
	proofs   int       // refusals of the line alone that came right after another was accepted
	reach    uint64    // how far behind the batch the next probe is
	tried    time.Time // the last refusal
	probed   time.Time // the last probe, or when the case began

	proven        time.Time       // when a line was last given up with proof
	givenUpInARow int             // lines given up since the server last accepted one
	ahead         map[uint64]bool // lines that were taken out of turn
}

// refused notes a refusal and reports whether the batch is under suspicion.
func (d *doubt) refused(now time.Time, last uint64, limit extension.Delivery) bool {
	if d.refusals == 0 {
		d.since = now
	}
	d.refusals++
	d.tried = now
	attempts, age := limit.MaxAttempts, limit.MaxAge
	if !d.proven.IsZero() && now.Sub(d.proven) < provenFor {
		attempts, age = proofs, 0
	}
	if !d.active && d.refusals >= attempts && now.Sub(d.since) >= age {
		d.open(now, last)
	}
	return d.active
}

func (d *doubt) open(now time.Time, last uint64) {
	d.active, d.upTo, d.reach, d.probed = true, last, 0, now
	d.contrast, d.fresh, d.turn, d.proofs = false, false, false, 0
}

// accepted notes that the server accepted lines, up to last.
func (d *doubt) accepted(last uint64) {
	d.refusals, d.givenUpInARow, d.proofs = 0, 0, 0
	d.contrast, d.fresh = true, true
	d.closeAt(last)
}

// closeAt ends the case when the last line of the batch is dealt with.
func (d *doubt) closeAt(last uint64) {
	if d.active && last >= d.upTo {
		d.active, d.refusals = false, 0
	}
}

// needsProbe reports whether something else should be sent first, to see whether the server
// takes anything. elsewhere is when another call of the transport last succeeded: while none
// does, a probe would only change the order of lines.
func (d *doubt) needsProbe(now, elsewhere time.Time, lines int) bool {
	if !d.active || d.turn || d.contrast && (lines > 1 || d.fresh) {
		return false
	}
	return d.contrast || elsewhere.After(d.tried) || now.Sub(d.probed) >= probeEvery
}

// room bounds the next batch by what is left of the one under suspicion; 0 is no bound.
func (d *doubt) room(after uint64) int {
	if !d.active || d.upTo <= after {
		return 0
	}
	return int(min(d.upTo-after, math.MaxInt32))
}

// forget drops what is known of lines up to the number that no longer wait.
func (d *doubt) forget(upTo uint64) {
	for seq := range d.ahead {
		if seq <= upTo {
			delete(d.ahead, seq)
		}
	}
	d.closeAt(upTo)
}

// doubtNote is what a restart has to know of a case.
type doubtNote struct {
	Batch    string    `json:"batch"`
	Since    time.Time `json:"since"`
	Refusals int       `json:"refusals"`
	Active   bool      `json:"active"`
	UpTo     uint64    `json:"up_to"`
	Contrast bool      `json:"contrast"`
	Proofs   int       `json:"proofs"`
	Probed   time.Time `json:"probed"`
}

// maxDoubtNote bounds what is read of one.
const maxDoubtNote = 4 << 10

func doubtPath(dir string, queue extension.Queue) string {
	return filepath.Join(QueueDir(dir, queue), "refused.json")
}

// saveDoubt writes the case down beside the queue. A single failure is not worth it.
func (s *Shipper) saveDoubt() {
	d := &s.state.doubt
	if s.doubtFile == "" || s.state.flight == nil || d.refusals < proofs && !d.active {
		return // there is nothing to remember, or it was given up
	}
	text, err := json.Marshal(doubtNote{s.state.flight.ID, d.since, d.refusals, d.active, d.upTo, d.contrast, d.proofs, d.probed})
	if err == nil {
		err = WriteFileAtomic(s.doubtFile, text)
	}
	if err != nil {
		s.Set.Announcer.Warn("how often a batch was refused was not written down", "batch", s.state.flight.ID, "error", err)
	}
}

// loadDoubt goes on with the case against the first batch after a start.
func (s *Shipper) loadDoubt() {
	if s.state.recalled || s.doubtFile == "" {
		return
	}
	s.state.recalled = true
	text, err := ReadFileBounded(s.doubtFile, maxDoubtNote)
	var n doubtNote
	if err != nil || json.Unmarshal(text, &n) != nil || n.Batch != s.state.flight.ID {
		return // the case starts anew
	}
	d := &s.state.doubt
	d.since, d.refusals = n.Since, n.Refusals
	if n.Active {
		d.open(n.Probed, n.UpTo)
		d.contrast, d.proofs = n.Contrast, n.Proofs
	}
}
