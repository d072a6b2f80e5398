package osquerydtest

import (
	"encoding/json"
	"strconv"
)

// differential compares results with those of the last time and remembers
// them. The counter of a first or fresh set is 0.
func (w *worker) differential(q *scheduledQuery, current rows, epoch int64) (it logItem, changed bool) {
	name, db := q.fullName, w.db
	fresh := w.isFresh(q, epoch)
	it = logItem{counter: 1, epoch: epoch}
	if fresh {
		it.added = current
	} else {
		raw, _ := db.get(domainQueries, name)
		var previous rows
		_ = json.Unmarshal([]byte(raw), &previous) // unreadable: everything is new
		it.removed, it.added = diffRows(previous, current)
	}
	changed = len(it.added) > 0 || len(it.removed) > 0
	if !changed && !fresh {
		return it, false
	}
	it.counter = 0
	if !fresh {
		raw, _ := db.get(domainQueries, name+"counter")
		n, _ := strconv.ParseInt(raw, 10, 64)
		it.counter = n + 1
	}
	_ = db.put(domainQueries, name, encode(nonNil(current)), name+"epoch", strconv.FormatInt(epoch, 10),
		name+"counter", strconv.FormatInt(it.counter, 10), "query."+name, q.Query)
	return it, true
}

// isFresh: a new query, or a new epoch. Changed SQL alone is only announced.
func (w *worker) isFresh(q *scheduledQuery, epoch int64) bool {
	name := q.fullName
	raw, known := w.db.get(domainQueries, name)
	old, _ := w.db.get(domainQueries, name+"epoch")
	sql, _ := w.db.get(domainQueries, "query."+name)
	switch {
	case !known || raw == "":
		w.p.log.info("query.cpp:108", "Storing initial results for new scheduled query: %s", name)
		return true
	case old != strconv.FormatInt(epoch, 10):
		w.p.log.info("query.cpp:112", "New Epoch %d for scheduled query %s", epoch, name)
		return true
	case sql != q.Query:
		w.p.log.info("query.cpp:117", "Scheduled query has been updated: %s", name)
		_ = w.db.put(domainQueries, "query."+name, q.Query)
	}
	return false
}

// diffRows counts equal rows: two of the same need two.
func diffRows(old, current rows) (removed, added rows) {
	count := map[string]int{}
	for _, r := range old {
		count[encode(r)]++
	}
	for _, r := range current {
		key := encode(r)
		if count[key] > 0 {
			count[key]--
		} else {
			added = append(added, r)
		}
	}
	for _, r := range old {
		key := encode(r)
		if count[key] > 0 {
			count[key]--
			removed = append(removed, r)
		}
	}
	return removed, added
}
