package osquerydtest

import (
	"slices"
	"strconv"
)

// filter keeps the rows for which all conditions hold, in the order asked for.
func filter(s *selection, in rows) rows {
	out := satisfying(s.where, in)
	if s.order != "" {
		slices.SortStableFunc(out, func(a, b map[string]string) int {
			switch {
			case compare(a[s.order], "=", b[s.order]):
				return 0
			case compare(a[s.order], "<", b[s.order]) != s.desc:
				return -1
			}
			return 1
		})
	}
	return out
}

func satisfying(where []condition, in rows) rows {
	out := make(rows, 0, len(in))
	for _, r := range in {
		if !slices.ContainsFunc(where, func(c condition) bool { return !c.holds(r) }) {
			out = append(out, r)
		}
	}
	return out
}

func project(s *selection, t *tableDef, in rows) rows {
	if slices.ContainsFunc(s.items, func(i item) bool { return i.count }) {
		in = rows{{"": strconv.Itoa(len(in))}}
	}
	if s.limit >= 0 && s.limit < len(in) {
		in = in[:s.limit]
	}
	if len(s.items) == 1 && s.items[0].star && !slices.ContainsFunc(in, t.isOdd) {
		return in // nobody changes a row, and a copy of many takes memory
	}
	out := make(rows, 0, len(in))
	for _, r := range in {
		row := make(map[string]string, len(t.columns))
		for _, it := range s.items {
			it.fill(row, r, t)
		}
		out = append(out, row)
	}
	return out
}

// isOdd reports whether a row has not exactly the table's columns.
func (t *tableDef) isOdd(row map[string]string) bool {
	if len(row) != len(t.columns) {
		return true
	}
	return slices.ContainsFunc(t.columns, func(c column) bool { _, ok := row[c.name]; return !ok })
}

func (it item) fill(row, from map[string]string, t *tableDef) {
	switch {
	case it.star:
		for _, c := range t.columns {
			row[c.name] = from[c.name]
		}
	case it.count:
		row[it.name] = from[""]
	case it.sleep >= 0:
		row[it.name] = "0"
	case it.literal != nil:
		row[it.name] = *it.literal
	default:
		name := it.name
		if name == "" {
			name = it.column
		}
		row[name] = from[it.column]
	}
}
