package osquerydtest

import (
	"encoding/json"
	"errors"
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
	t.generate = func(where []condition) (rows, error) {
		res := e.w.registry.callExtension(ext.uuid, "table", name, map[string]string{
			"action": "generate", "context": queryContext(t, where),
		})
		if res.code != 0 {
			return nil, errors.New(res.message)
		}
		return res.rows, nil
	}
	return t
}

// queryContext is the JSON that tells an extension what is asked.
func queryContext(t *tableDef, where []condition) string {
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
		out.ColsUsed = append(out.ColsUsed, c.name)
		if i < 64 {
			out.Bitset |= 1 << i
		}
	}
	raw, _ := json.Marshal(out) // strings and numbers alone
	return string(raw)
}
