package spool

import "fmt"

// Ack says that every line up to the sequence number last is delivered. It is on disk when Ack returns without an error: it
// survives kill -9, and under SyncEach a power cut. A number that is acknowledged already is no error; one that was never
// given out is ErrSequence. With ErrNoSpace or ErrIO nothing changed, and the same call may be made again. A pin that is
// reached is lifted.
func (q *Queue) Ack(last uint64) error {
	return q.mark(last, func(m *marks) bool {
		if last <= m.acked {
			return false
		}
		m.acked = last
		if m.pinned <= last {
			m.pinned = 0
		}
		return true
	}, q.opts.Sync.kind == syncEach)
}

// Pin writes down that the batch after the last acknowledged line ends with the sequence number last, so that a Read after a
// restart can return the same batch again: Read does not go beyond a pin. Call it before a batch is sent, or to change how a
// batch that failed is cut. It also keeps the numbers up to last from being given out again after a power cut (not under
// SyncNever). Zero lifts the pin. Errors are those of Ack.
func (q *Queue) Pin(last uint64) error {
	return q.mark(last, func(m *marks) bool {
		if last <= m.acked && last != 0 || last == m.pinned {
			return false
		}
		m.pinned = last
		return true
	}, q.opts.Sync.kind != syncNever)
}

// mark changes the marks by set, which says whether there is something to write.
func (q *Queue) mark(last uint64, set func(*marks) bool, flush bool) error {
	if err := q.take(q.cursorTurn); err != nil {
		return err
	}
	defer func() { <-q.cursorTurn }()
	q.mu.Lock()
	m, highest := q.marks, q.last
	q.mu.Unlock()
	if last > highest {
		return fmt.Errorf("sequence number %d, last is %d: %w", last, highest, ErrSequence)
	}
	if !set(&m) {
		return nil
	}
	if err := q.cursor.save(m); err != nil {
		return err
	}
	if flush {
		if err := q.cursor.f.Sync(); err != nil {
			return typed("flush spool cursor", err)
		}
	}
	q.drop(q.apply(m), flush)
	return nil
}

// apply makes m known and takes the segments that nobody wants any more out of the list.
func (q *Queue) apply(m marks) []string {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.marks.acked, q.marks.pinned = m.acked, m.pinned
	q.holes = dropSpans(q.holes, q.marks.floor())
	var names []string
	for len(q.segs) > 1 && q.segs[1].first-1 <= q.marks.floor() {
		names = append(names, q.segs[0].name)
		q.total -= q.segs[0].bytes
		q.segs = q.segs[1:]
	}
	return names
}

// drop deletes acknowledged segments. The cursor is flushed before: after a power cut, their lines would otherwise be missed.
func (q *Queue) drop(names []string, flushed bool) {
	if len(names) == 0 {
		return
	}
	if !flushed && q.opts.Sync.kind != syncNever {
		_ = q.cursor.f.Sync() // at worst, a false report
	}
	q.discard(names)
}
