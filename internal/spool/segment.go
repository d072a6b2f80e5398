package spool

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

const segmentSuffix = ".spool"

// segment is one file of the log. Its numbers are guarded by Queue.mu.
type segment struct {
	name     string // within the directory
	gen      uint64 // order of creation
	first    uint64 // sequence number that it starts at
	salt     uint32
	last     uint64 // of its last whole record; first-1 when it has none
	end      int64  // offset behind the last whole record: readers stop here
	bytes    int64  // size of the file
	failures int    // reads in a row that the disk refused

	holed     bool // there is damage before its last whole record
	unflushed bool // holds lines up to Queue.synced that may not be flushed
}

func newSegment(gen, first uint64, salt uint32) *segment {
	name := fmt.Sprintf("%012d-%020d-%08x%s", gen, first, salt, segmentSuffix)
	return &segment{name: name, gen: gen, first: first, salt: salt, last: first - 1}
}

// parseSegment returns nil for a name that is not a segment's.
func parseSegment(name string) *segment {
	base, ok := strings.CutSuffix(name, segmentSuffix)
	parts := strings.Split(base, "-")
	if !ok || len(parts) != 3 {
		return nil
	}
	gen, err1 := strconv.ParseUint(parts[0], 10, 62)
	first, err2 := strconv.ParseUint(parts[1], 10, 62)
	salt, err3 := strconv.ParseUint(parts[2], 16, 32)
	if err1 != nil || err2 != nil || err3 != nil || first == 0 {
		return nil
	}
	if s := newSegment(gen, first, uint32(salt)); s.name == name {
		return s
	}
	return nil
}

func sortSegments(s []*segment) {
	slices.SortFunc(s, func(a, b *segment) int {
		if a.gen < b.gen {
			return -1
		}
		return 1
	})
}

// span is a range of sequence numbers, both ends included.
type span struct{ first, last uint64 }

// countIn returns how many numbers of sorted, disjoint spans lie from first to last.
func countIn(spans []span, first, last uint64) uint64 {
	var n uint64
	for _, s := range spans {
		if lo, hi := max(s.first, first), min(s.last, last); lo <= hi {
			n += hi - lo + 1
		}
	}
	return n
}

// addSpan puts s into sorted, disjoint spans.
func addSpan(spans []span, s span) []span {
	i := 0
	for i < len(spans) && spans[i].last+1 < s.first {
		i++
	}
	j := i
	for j < len(spans) && spans[j].first <= s.last+1 {
		s.first, s.last = min(s.first, spans[j].first), max(s.last, spans[j].last)
		j++
	}
	return slices.Replace(spans, i, j, s)
}

// dropSpans forgets what lies up to seq.
func dropSpans(spans []span, seq uint64) []span {
	for len(spans) > 0 && spans[0].last <= seq {
		spans = spans[1:]
	}
	return spans
}
