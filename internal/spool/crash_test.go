package spool

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// The crash model drives a queue on a simulated disk through lives that end in a kill or a power cut, at a random call or
// between two, and after each looks whether the queue kept its promises:
//
//   - what survives has the number and the bytes that it had, in order;
//   - a kill loses nothing; a power cut loses only what was not flushed;
//   - what is acknowledged comes again only after a power cut, and then in the same batch under the same id;
//   - a number that was pinned never names another line, and the id of a batch never other lines;
//   - an epoch that was seen goes on, unless the disk damaged the cursor;
//   - what is reported as missing was lost, and nothing that was delivered, evicted or never stored is reported. Under
//     SyncNever a cut that a power cut undoes can leave records across one another; then the count alone may be too high.

type modelLine struct {
	text    string
	durable bool // survives a power cut
	maybe   bool // its Append did not return: it may be there or not
}

type crashModel struct {
	t    *testing.T
	seed uint64
	rnd  *rand.Rand
	d    *disk
	o    Options
	q    *Queue

	made  int                   // lines, so that no two are the same
	lines map[uint64]*modelLine // above the floor, as far as they may be in the log
	holes map[uint64]bool       // numbers whose lines are gone for good
	last  uint64

	acked, ackedFlushed, ackedMaybe uint64
	evicted                         uint64 // announced
	evicting                        bool   // the last life ended in an Append

	cut    bool // the power went since the last look
	rotten bool // and the disk damaged the cursor
	epoch  string
	seen   bool // a pin of the epoch succeeded

	flight map[string]bool   // ids that may come first after a restart
	upTo   uint64            // where the flight ends
	from   uint64            // and where it begins
	ids    map[string]string // batches that were sent, with their bytes
	sent   map[string]string // lines that were sent, by epoch and number
	counts crashCounts
}

type crashCounts struct{ kills, cuts, lost, again, epochs, rotten int }

func (m *crashModel) fatal(format string, args ...any) {
	m.t.Helper()
	m.t.Fatalf("seed %d: %s", m.seed, fmt.Sprintf(format, args...))
}

func newCrashModel(t *testing.T, seed uint64, p SyncPolicy) *crashModel {
	t.Helper()
	m := &crashModel{
		t: t, seed: seed, rnd: rand.New(rand.NewPCG(seed, 3)), d: newDisk(seed),
		lines: map[uint64]*modelLine{}, holes: map[uint64]bool{}, flight: map[string]bool{},
		ids: map[string]string{}, sent: map[string]string{},
	}
	m.d.rot = seed%4 == 0
	m.o = Options{MaxBytes: 4096, SegmentBytes: 1024, MaxRecord: 700, Sync: p, Parents: 3, fs: m.d}
	m.o.OnLoss = func(l Loss) {
		if l.Reason != Evicted && m.flushes() {
			m.fatal("announced: %+v", l)
		}
		if m.d.isDead() {
			return // nobody heard it
		}
		if l.Reason == Evicted {
			m.evicted = max(m.evicted, l.Last)
		}
		m.forget()
	}
	return m
}

func (m *crashModel) flushes() bool { return m.o.Sync.kind != syncNever }
func (m *crashModel) floor() uint64 { return max(m.acked, m.evicted) }

// forget drops what is below the floor.
func (m *crashModel) forget() {
	for seq := range m.lines {
		if seq <= m.evicted {
			delete(m.lines, seq)
		}
	}
}

// live is one life of the process.
func (m *crashModel) live() {
	if m.rnd.IntN(3) > 0 {
		m.d.mu.Lock()
		m.d.killIn = 1 + m.rnd.IntN(60)
		m.d.mu.Unlock()
	}
	if m.open() {
		for range 1 + m.rnd.IntN(40) {
			if m.step(); m.d.isDead() {
				break
			}
		}
	}
}

// crash ends the life, at times with the power.
func (m *crashModel) crash() {
	if m.rnd.IntN(5) == 0 && !m.d.isDead() && m.q != nil {
		m.close()
	}
	m.d.kill()
	if m.q != nil {
		_ = m.q.Close()
		m.q = nil
	}
	if m.rnd.IntN(2) == 0 {
		m.counts.cuts++
		m.d.cut()
		m.cut, m.rotten = true, m.rotten || m.d.rotten
	} else {
		m.counts.kills++
	}
	m.d.restart()
}

func (m *crashModel) close() {
	err := m.q.Close()
	m.q = nil
	if m.d.isDead() {
		return
	}
	if err != nil {
		m.fatal("close: %v", err)
	}
	if m.flushes() {
		m.flushedUpTo(m.last)
		m.ackedFlushed = m.acked
	}
}

func (m *crashModel) step() {
	m.evicting = false
	switch k := m.rnd.IntN(20); {
	case k < 10:
		m.append()
	case k < 17:
		m.ship()
	case k < 18:
		if err := m.q.Sync(); err == nil {
			m.flushedUpTo(m.last)
		} else if !m.d.isDead() {
			m.fatal("sync: %v", err)
		}
	default:
		m.reopen()
	}
	if m.q != nil && !m.d.isDead() {
		if s := m.q.Stats(); s.Bytes > m.o.MaxBytes || s.Last != m.last {
			m.fatal("%+v, last is %d", s, m.last)
		}
	}
}

func (m *crashModel) reopen() {
	if m.close(); !m.d.isDead() {
		m.open()
	}
}

func (m *crashModel) flushedUpTo(seq uint64) {
	for n, l := range m.lines {
		if n <= seq {
			l.durable = true
		}
	}
}

func (m *crashModel) append() {
	m.made++
	text := fmt.Sprintf("%d %s", m.made, strings.Repeat(string(rune('a'+m.made%26)), m.rnd.IntN(m.rnd.IntN(600)+1)))
	m.evicting = true
	seq, err := m.q.Append([]byte(text))
	if seq != m.last+1 && (seq != 0 || !m.d.isDead()) {
		m.fatal("line got number %d after %d: %v", seq, m.last, err)
	}
	delete(m.holes, m.last+1)
	m.lines[m.last+1] = &modelLine{text: text, maybe: seq == 0, durable: err == nil && m.o.Sync.kind == syncEach}
	if seq != 0 {
		m.last, m.evicting = seq, m.d.isDead()
	}
}

// ship does what a shipper does: read, pin, send, acknowledge.
func (m *crashModel) ship() {
	limit := 1 + m.rnd.IntN(6)
	if m.q.Stats().Pinned > 0 {
		limit = 0
	}
	b, err := m.q.Read(0, limit, 0)
	if err != nil {
		if !m.d.isDead() {
			m.fatal("read: %v", err)
		}
		return
	}
	if len(b.Lines) == 0 {
		if b.Last > 0 {
			m.ack(b.Last)
		}
		return
	}
	if m.rnd.IntN(4) == 0 { // the server found it too large
		b.Lines = b.Lines[:(len(b.Lines)+1)/2]
		b.Last = b.First + uint64(len(b.Lines)) - 1
	}
	m.check(b)
	if m.pin(b) && m.rnd.IntN(3) > 0 {
		m.ack(b.Last)
	}
}

// check compares a batch with what was stored.
func (m *crashModel) check(b Batch) {
	for i, l := range b.Lines {
		want := m.lines[b.First+uint64(i)]
		if want == nil || want.text != string(l) {
			m.fatal("line %d of %d to %d is not what was stored", b.First+uint64(i), b.First, b.Last)
		}
	}
	for seq := m.floor() + 1; seq < b.First; seq++ {
		if !m.holes[seq] {
			m.fatal("line %d was passed over for %d", seq, b.First)
		}
	}
}

// pin pins and sends.
func (m *crashModel) pin(b Batch) bool {
	id := fmt.Sprintf("%s/%d-%d", m.epoch, b.First, b.Last)
	m.flight[id] = true
	if err := m.q.Pin(b.Last); err != nil {
		if !m.d.isDead() {
			m.fatal("pin: %v", err)
		}
		return false
	}
	m.flight, m.from, m.upTo, m.seen = map[string]bool{id: true}, b.First, b.Last, true
	m.ackedFlushed = m.acked
	if m.flushes() {
		m.flushedUpTo(b.Last)
	}
	text := string(joined(b.Lines))
	if old, ok := m.ids[id]; ok && old != text {
		m.fatal("the id %s names other lines", id)
	}
	m.ids[id] = text
	for i, l := range b.Lines {
		number := fmt.Sprintf("%s/%d", m.epoch, b.First+uint64(i))
		if old, ok := m.sent[number]; ok && old != string(l) {
			m.fatal("the number %s names another line", number)
		}
		m.sent[number] = string(l)
	}
	return true
}

func joined(lines [][]byte) (out []byte) {
	for _, l := range lines {
		out = append(append(out, l...), '\n')
	}
	return out
}

func (m *crashModel) ack(last uint64) {
	m.ackedMaybe = last
	if err := m.q.Ack(last); err != nil {
		if !m.d.isDead() {
			m.fatal("ack: %v", err)
		}
		return
	}
	m.acked = last
	if m.o.Sync.kind == syncEach {
		m.ackedFlushed = last
	}
	m.forget()
}

// open begins a life, and looks at what is left of the one before; false if the process died in it.
func (m *crashModel) open() bool {
	q, rep, err := Open(diskDir, m.o)
	m.q = q
	if m.d.isDead() {
		return false
	}
	if err != nil {
		m.fatal("open: %v", err)
	}
	m.checkEpoch(q.Stats().Epoch, rep)
	m.checkMarks(rep)
	present := m.present()
	if m.d.isDead() {
		return false
	}
	m.checkLines(present, rep)
	m.checkFirst()
	m.cut, m.rotten = false, false
	m.last, m.evicting = rep.Next-1, false
	for seq, l := range m.lines {
		l.maybe, l.durable = false, l.durable || m.flushes()
		if _, ok := present[seq]; !ok && seq > m.floor() {
			delete(m.lines, seq)
		}
	}
	m.ackedFlushed, m.ackedMaybe = min(m.ackedFlushed, m.acked), m.acked
	return true
}

func (m *crashModel) checkEpoch(epoch string, rep Recovery) {
	if m.epoch == epoch {
		if rep.CursorLost {
			m.fatal("the cursor is lost, and its epoch is not")
		}
		return
	}
	if m.epoch != "" {
		if m.seen && !m.rotten {
			m.fatal("epoch %s is lost: %+v", m.epoch, rep)
		}
		m.counts.epochs++
	}
	m.epoch, m.seen, m.flight = epoch, false, map[string]bool{}
	if m.rotten {
		m.counts.rotten++
	}
}

// checkMarks looks at how far lines count as acknowledged and evicted.
func (m *crashModel) checkMarks(rep Recovery) {
	least, most := m.acked, max(m.acked, m.ackedMaybe)
	if m.cut {
		least = m.ackedFlushed
	}
	if rep.Acked < least || rep.Acked > most {
		m.fatal("acknowledged up to %d, want %d to %d", rep.Acked, least, most)
	}
	if rep.Acked < m.acked {
		m.counts.again++
	}
	m.acked = rep.Acked
	evicted := m.q.Stats().Evicted
	if evicted < m.evicted && m.seen {
		m.fatal("evicted up to %d, want %d: %+v", evicted, m.evicted, rep)
	}
	for seq := max(m.evicted, most) + 1; seq <= evicted && !m.evicting && !rep.CursorLost; seq++ {
		if !m.holes[seq] {
			m.fatal("line %d was evicted, and nobody heard of it", seq)
		}
	}
	m.evicted = evicted
	m.forget()
}

func (m *crashModel) present() map[uint64]string {
	out := map[uint64]string{}
	for after := uint64(0); ; {
		b, err := m.q.Read(after, 0, 0)
		if err != nil {
			m.fatal("read: %v", err)
		}
		if b.Last == 0 {
			return out
		}
		for i, l := range b.Lines {
			out[b.First+uint64(i)] = string(l)
		}
		after = b.Last
	}
}

func (m *crashModel) checkLines(present map[uint64]string, rep Recovery) {
	exact := m.flushes() || rep.Damages == 0
	if uint64(len(present)) < rep.Records || exact && uint64(len(present)) != rep.Records {
		m.fatal("%d lines, %+v", len(present), rep)
	}
	for seq, text := range present {
		if l := m.lines[seq]; l == nil || l.text != text {
			m.fatal("line %d is %.20q, and %.30v was stored: %+v", seq, text, l, rep)
		}
	}
	missing := uint64(0)
	for seq := m.floor() + 1; seq < rep.Next; seq++ {
		if _, ok := present[seq]; ok {
			continue
		}
		l := m.lines[seq]
		if missing++; !m.holes[seq] && (l == nil || !l.maybe && (!m.cut || l.durable)) {
			m.fatal("line %d is missing: %+v; %+v", seq, l, rep)
		}
		m.holes[seq] = true
	}
	for seq, l := range m.lines {
		if seq >= rep.Next && !l.maybe && (!m.cut || l.durable) {
			m.fatal("line %d is gone: %+v", seq, rep)
		}
		if _, ok := present[seq]; !ok && seq > m.floor() && !l.maybe {
			m.counts.lost++
		}
	}
	if missing > rep.Missing || exact && missing != rep.Missing {
		m.fatal("%d numbers are missing: %+v", missing, rep)
	}
	if m.counts.cuts == 0 && (rep.Damages > 0 || missing > 0) {
		m.fatal("a kill did damage: %+v", rep)
	}
}

// checkFirst looks whether what was under way comes again as the same batch.
func (m *crashModel) checkFirst() {
	limit := 1
	pinned := m.q.Stats().Pinned
	if pinned > 0 {
		limit = 0
	}
	if !m.seen || m.floor() >= m.from || !m.flushes() && m.cut || m.rotten {
		m.from = 0 // nothing is under way, or nobody promised that it comes again in one piece
	}
	if m.from == 0 {
		return
	}
	if pinned == 0 {
		m.fatal("the batch from %d to %d is not pinned any more", m.from, m.upTo)
	}
	b, err := m.q.Read(0, limit, 0)
	if err != nil {
		m.fatal("read: %v", err)
	}
	if id := fmt.Sprintf("%s/%d-%d", m.epoch, b.First, b.Last); !m.flight[id] {
		m.fatal("%s comes, where %v was under way", id, m.flight)
	}
}

// TestCrashModel runs thousands of random lives under every policy.
func TestCrashModel(t *testing.T) {
	seeds := uint64(1500)
	if testing.Short() {
		seeds = 100
	}
	for name, p := range map[string]SyncPolicy{"each": SyncEach(), "interval": SyncInterval(hour), "never": SyncNever()} {
		t.Run(name, func(t *testing.T) {
			var sum crashCounts
			for seed := range seeds {
				runCrashModel(t, seed, p, &sum)
			}
			t.Logf("%+v", sum)
			dull := sum.kills == 0 || sum.cuts == 0 || sum.lost == 0 || sum.rotten == 0 || sum.again == 0 && name != "each"
			if !testing.Short() && dull {
				t.Fatal("the runs were dull")
			}
		})
	}
}

func runCrashModel(t *testing.T, seed uint64, p SyncPolicy, sum *crashCounts) {
	t.Helper()
	m := newCrashModel(t, seed, p)
	for range 8 {
		m.live()
		m.crash()
	}
	sum.kills += m.counts.kills
	sum.cuts += m.counts.cuts
	sum.lost += m.counts.lost
	sum.again += m.counts.again
	sum.epochs += m.counts.epochs
	sum.rotten += m.counts.rotten
}
