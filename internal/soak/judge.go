// Package soak compares what was reported to osqueryd as stored with what the server has.
// Its test is the soak: instances, a flaky server, and kills at random.
package soak

import "slices"

// Batch is one delivery that a server accepted, of lines that bear numbers.
type Batch struct {
	ID    string
	Lines []uint64
}

// Verdict is what Judge found about one instance.
type Verdict struct {
	// Produced counts the lines that were acknowledged, and those that were
	// delivered although whoever wrote them died before it heard so.
	Produced int
	// Delivered counts different lines.
	Delivered int
	// Lost counts lines that were acknowledged and are not there.
	Lost int
	// Duplicates counts lines that came again in a batch of another id.
	Duplicates int
	// OutOfOrder counts lines that came after one of a higher number.
	OutOfOrder int
	// Repeats counts batches that came again, which is as it should be.
	Repeats int
	// Changed counts batches that came again with other lines: whoever discards
	// by id would lose some.
	Changed int
	// FirstLost is the lowest number that is lost.
	FirstLost uint64
}

// Judge compares the numbers of the lines that were acknowledged, in any order,
// with the batches in their order of arrival. Numbers rise in the order in which
// lines were written, with gaps for those that were never acknowledged.
func Judge(acknowledged []uint64, batches []Batch) Verdict {
	var v Verdict
	delivered := v.deliver(batches)
	v.Delivered = len(delivered)
	v.Produced = len(delivered)
	counted := make(map[uint64]bool)
	for _, n := range acknowledged {
		if delivered[n] || counted[n] {
			continue
		}
		counted[n] = true
		v.Produced++
		v.Lost++
		if v.FirstLost == 0 || n < v.FirstLost {
			v.FirstLost = n
		}
	}
	return v
}

// deliver does what a server does: it discards batches that it has.
func (v *Verdict) deliver(batches []Batch) map[uint64]bool {
	lines, ids := map[uint64]bool{}, map[string][]uint64{}
	var highest uint64
	for _, b := range batches {
		if before, again := ids[b.ID]; again {
			v.Repeats++
			if !slices.Equal(before, b.Lines) {
				v.Changed++
			}
			continue
		}
		ids[b.ID] = b.Lines
		for _, n := range b.Lines {
			switch {
			case lines[n]:
				v.Duplicates++
			case n < highest:
				v.OutOfOrder++
			}
			lines[n] = true
			highest = max(highest, n)
		}
	}
	return lines
}

// Add returns the sum of two verdicts, for several instances.
func (v Verdict) Add(w Verdict) Verdict {
	if v.FirstLost == 0 {
		v.FirstLost = w.FirstLost
	}
	v.Produced += w.Produced
	v.Delivered += w.Delivered
	v.Lost += w.Lost
	v.Duplicates += w.Duplicates
	v.OutOfOrder += w.OutOfOrder
	v.Repeats += w.Repeats
	v.Changed += w.Changed
	return v
}

// OK reports whether a server that discards by id has every line once and in order.
func (v Verdict) OK() bool {
	return v.Produced > 0 && v.Lost == 0 && v.Duplicates == 0 && v.OutOfOrder == 0 && v.Changed == 0
}
