package osquerydtest

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
)

// extensionTable is a table that an extension generates.
func (e *engine) extensionTable(ext *extension, name string) *tableDef {
	t := &tableDef{name: name}
	for _, r := range ext.plugins["table"][name] {
		if r["id"] == "column" {
			t.columns = append(t.columns, column{r["name"], r["type"]})
		}
	}
	t.scan = func(where []condition, used map[string]bool) (rows, error) {
		res := e.w.registry.callExtension(ext.uuid, "table", name, map[string]string{
			"action": "generate", "context": queryContext(t, where, used),
		})
		if res.code != 0 {
			return nil, errors.New(res.message)
		}
		return t.typed(res.rows), nil
	}
	return t
}

// read gets the rows that a statement wants, and maybe more. SQLite asks an
// extension once for each value of an IN.
func (t *tableDef) read(s *selection) (rows, error) {
	if t.scan == nil {
		return t.generate(s.where)
	}
	used := s.uses(t)
	var out rows
	for _, where := range eachOfIn(s.where) {
		got, err := t.scan(where, used)
		if err != nil {
			return nil, err
		}
		out = append(out, satisfying(where, got)...)
	}
	return out, nil
}

// uses are the columns that a statement names.
func (s *selection) uses(t *tableDef) map[string]bool {
	used := map[string]bool{s.order: true}
	for _, it := range s.items {
		used[it.column] = true
		if it.star {
			for _, c := range t.columns {
				used[c.name] = true
			}
		}
	}
	for _, w := range s.where {
		used[w.column] = true
	}
	return used
}

// eachOfIn replaces each IN by one equality after the other.
func eachOfIn(where []condition) [][]condition {
	i := slices.IndexFunc(where, func(c condition) bool { return c.op == "in" })
	if i < 0 {
		return [][]condition{where}
	}
	var out [][]condition
	for _, v := range slices.Compact(slices.Sorted(slices.Values(where[i].values))) {
		one := slices.Clone(where)
		one[i] = condition{column: where[i].column, op: "=", values: []string{v}}
		out = append(out, eachOfIn(one)...)
	}
	return out
}

// queryContext is the JSON that tells an extension what is asked: names in
// order, but the bits by the order of the table's columns.
func queryContext(t *tableDef, where []condition, used map[string]bool) string {
	type expr struct {
		Op   int    `json:"op"`
		Expr string `json:"expr"`
	}
	type constraint struct {
		Name     string `json:"name"`
		List     []expr `json:"list"`
		Affinity string `json:"affinity"`
	}
	out := struct {
		Constraints []constraint `json:"constraints"`
		ColsUsed    []string     `json:"colsUsed"`
		Bitset      uint64       `json:"colsUsedBitset"`
	}{Constraints: []constraint{}, ColsUsed: []string{}}
	for i, c := range t.columns {
		con := constraint{Name: c.name, List: []expr{}, Affinity: c.kind}
		for _, w := range where {
			if op, ok := constraintOps[w.op]; ok && strings.EqualFold(w.column, c.name) {
				for _, v := range w.values {
					con.List = append(con.List, expr{op, v})
				}
			}
		}
		out.Constraints = append(out.Constraints, con)
		if used[c.name] {
			out.ColsUsed = append(out.ColsUsed, c.name)
			out.Bitset |= 1 << min(i, 63)
		}
	}
	slices.Sort(out.ColsUsed)
	slices.SortFunc(out.Constraints, func(a, b constraint) int { return strings.Compare(a.Name, b.Name) })
	raw, _ := json.Marshal(out) // strings and numbers alone
	return string(raw)
}
