package spool

import "fmt"

// Ack notes that every line up to the sequence number last is delivered. It is on disk when Ack returns without an error: it
// survives kill -9, and under SyncEach a power cut. A number that is acknowledged already is no error; one that was never
// given out is ErrSequence. With ErrNoSpace or ErrIO nothing changed, and the same call may be made again. A pin that is
// reached is lifted.
func (q *Queue) Ack(last uint64) error {
	return q.mark(last, func(m *marks) bool {
		if last <= m.acked {
			return false
		}
		m.acked = last
		m.pinned = m.pin()
		return true
	}, q.opts.Sync.kind == syncEach)
}

// Pin writes down that the batch after the last acknowledged line ends with the sequence number last, so that a Read after a
// restart can return the same batch again: Read does not go beyond a pin. Call it before a batch is sent, or to change how a
// batch that failed is cut. When it returns without an error the pin survives a power cut under every policy, so that within
// an epoch no number up to it is ever given to another line; the lines are flushed before it, unless the policy is SyncNever.
// Zero lifts the pin. Errors are those of Ack.
func (q *Queue) Pin(last uint64) error {
	if q.opts.Sync.kind != syncNever && !q.isClosed() {
		q.mu.Lock()
		highest := q.last
		q.mu.Unlock()
		_ = q.syncTo(min(last, highest)) // counted; the lines are stored, and their numbers are kept
	}
	return q.mark(last, func(m *marks) bool {
		if last <= m.floor() && last != 0 || last == m.pinned {
			return false
		}
		m.pinned = last
		return true
	}, true)
}

// mark changes the marks by set, which reports whether there is something to write.
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
	changed := set(&m)
	if changed {
		if err := q.cursor.save(m); err != nil {
			return err
		}
	}
	if flush {
		if err := q.flushCursor(); err != nil {
			return err
		}
	}
	if changed {
		q.drop(q.apply(m))
	}
	return nil
}

// flushCursor makes what the cursor holds survive a power cut, with its name. The caller has the cursor token.
func (q *Queue) flushCursor() error {
	if err := q.cursor.flush(); err != nil {
		return err
	}
	q.mu.Lock()
	q.cursor.rooted = q.rooted
	q.mu.Unlock()
	if q.cursor.rooted {
		return nil
	}
	if err := q.flushNames(); err != nil {
		return typed("flush the names of the spool's files", err)
	}
	q.cursor.rooted = true
	return nil
}

// apply makes m known and takes the segments that nobody wants any more out of the list.
func (q *Queue) apply(m marks) []string {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.marks.acked, q.marks.pinned = m.acked, m.pinned
	q.marks.seen = max(q.marks.seen, m.highest())
	q.forget()
	var names []string
	for len(q.segs) > 1 && q.segs[1].first-1 <= q.marks.floor() {
		names = append(names, q.segs[0].name)
		q.grow(-q.segs[0].bytes)
		q.segs = q.segs[1:]
	}
	return names
}

// drop deletes acknowledged segments. The caller has the cursor token. The cursor is flushed before, whatever the policy:
// after a power cut, their lines would otherwise be missed.
func (q *Queue) drop(names []string) {
	if len(names) == 0 {
		return
	}
	_ = q.flushCursor() // at worst, a false report
	q.discard(names)
}
