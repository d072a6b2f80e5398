package spool

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// model is the queue as it ought to be, in memory.
type model struct {
	lines  map[uint64]string
	last   uint64
	acked  uint64
	lost   uint64 // evicted up to here
	pinned uint64
	drops  uint64
}

func (m *model) floor() uint64 { return max(m.acked, m.lost) }

func TestModel(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { runModel(t, rand.New(rand.NewPCG(seed, 1))) })
	}
}

func runModel(t *testing.T, r *rand.Rand) {
	t.Helper()
	m := &model{lines: map[uint64]string{}}
	dir := t.TempDir()
	o := Options{MaxBytes: 8192, SegmentBytes: 1024, MaxRecord: 600, Sync: SyncNever()}
	o.OnLoss = func(l Loss) {
		if l.Reason != Evicted || l.First != m.floor()+1 || l.Records != l.Last-l.First+1 {
			t.Errorf("loss %+v, floor %d", l, m.floor())
		}
		m.lost = l.Last
		if m.pinned <= m.lost {
			m.pinned = 0
		}
		m.drops += l.Records
	}
	q, _ := mustOpen(t, dir, o)
	for step := range 600 {
		switch k := r.IntN(100); {
		case k < 55:
			m.append(t, q, r)
		case k < 80:
			m.read(t, q, r)
		case k < 90:
			m.ack(t, q, r)
		case k < 95:
			m.pin(t, q, r)
		default:
			mustClose(t, q)
			var rep Recovery
			q, rep = mustOpen(t, dir, o)
			if !rep.Clean() || rep.Next != m.last+1 || rep.Acked != m.acked || rep.Pinned != m.pinned {
				t.Fatalf("step %d: %+v, model acked %d last %d pin %d", step, rep, m.acked, m.last, m.pinned)
			}
		}
		s := q.Stats()
		if s.Records != m.last-m.floor() || s.Bytes > o.MaxBytes || s.Bytes != diskBytes(t, dir) {
			t.Fatalf("step %d: %+v, model %d to %d", step, s, m.floor(), m.last)
		}
	}
	if m.drops == 0 || m.acked == 0 {
		t.Fatalf("dull run: %d drops, acked %d", m.drops, m.acked)
	}
}

func (m *model) append(t *testing.T, q *Queue, r *rand.Rand) {
	t.Helper()
	b := make([]byte, r.IntN(650))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	seq, err := q.Append(b)
	if len(b) > 600 {
		if err == nil {
			t.Fatal("too large, yet stored")
		}
		return
	}
	m.last++
	m.lines[m.last] = string(b)
	if err != nil || seq != m.last {
		t.Fatalf("seq %d, want %d: %v", seq, m.last, err)
	}
}

func (m *model) read(t *testing.T, q *Queue, r *rand.Rand) {
	t.Helper()
	after := uint64(0)
	if r.IntN(2) == 0 {
		after = m.acked + r.Uint64N(m.last-m.acked+2)
	}
	records, bytes := r.IntN(6), r.IntN(1200)
	b, err := q.Read(after, records, bytes)
	if err != nil {
		t.Fatal(err)
	}
	start := max(after, m.acked)
	first := max(start, m.lost) + 1
	if first > m.last {
		if len(b.Lines) != 0 {
			t.Fatalf("read %+v behind the end", b)
		}
		return
	}
	if b.First != first || b.Last != b.First+uint64(len(b.Lines))-1 {
		t.Fatalf("read %d to %d with %d lines, want it to start at %d", b.First, b.Last, len(b.Lines), first)
	}
	if gap := first > start+1; gap != (len(b.Gaps) == 1) || gap && b.Gaps[0] != (Gap{Evicted, start + 1, first - 1}) {
		t.Fatalf("gaps %v, want %d to %d", b.Gaps, start+1, first-1)
	}
	m.checkBatch(t, b, records, bytes)
}

func (m *model) checkBatch(t *testing.T, b Batch, records, bytes int) {
	t.Helper()
	sum := 0
	for i, l := range b.Lines {
		sum += len(l)
		if m.lines[b.First+uint64(i)] != string(l) {
			t.Fatalf("line %d differs", b.First+uint64(i))
		}
	}
	tooMany := records > 0 && len(b.Lines) > records
	tooBig := bytes > 0 && sum > bytes && len(b.Lines) > 1
	beyondPin := b.First <= m.pinned && b.Last > m.pinned
	if tooMany || tooBig || beyondPin || sum != b.Bytes {
		t.Fatalf("%d lines, %d bytes, %d to %d; limits %d, %d, pin %d", len(b.Lines), sum, b.First, b.Last, records, bytes, m.pinned)
	}
}

func (m *model) ack(t *testing.T, q *Queue, r *rand.Rand) {
	t.Helper()
	n := m.acked + r.Uint64N(m.last-m.acked+1)/2
	if err := q.Ack(n); err != nil {
		t.Fatal(err)
	}
	m.acked = n
	if m.pinned <= n {
		m.pinned = 0
	}
}

func (m *model) pin(t *testing.T, q *Queue, r *rand.Rand) {
	t.Helper()
	n := m.acked + r.Uint64N(m.last-m.acked+1)
	if err := q.Pin(n); err != nil {
		t.Fatal(err)
	}
	if n > m.floor() || n == 0 {
		m.pinned = n
	}
}
