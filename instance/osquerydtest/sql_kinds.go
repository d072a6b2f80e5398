package osquerydtest

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// modification refuses DELETE, as tables that cannot be written do.
func (p *parser) modification() error {
	if len(p.tokens) == 3 && p.tokens[0].is("delete") && p.tokens[1].is("from") {
		return fmt.Errorf("table %s may not be modified", p.tokens[2].text)
	}
	return nil
}

func numberKind(text string) string {
	if strings.Contains(text, ".") {
		return "DOUBLE"
	}
	return "INTEGER"
}

// describe gives the names and types of the columns of one item.
func (it item) describe(t *tableDef) []column {
	switch {
	case it.star:
		return t.columns
	case it.count:
		return []column{{it.name, "BIGINT"}}
	case it.sleep >= 0:
		return []column{{it.name, "INTEGER"}}
	case it.literal != nil:
		return []column{{it.name, it.kind}}
	}
	name, kind := it.name, "TEXT"
	for _, c := range t.columns {
		if c.name == it.column {
			kind = c.kind
			if name == "" {
				name = c.name
			}
		}
	}
	return []column{{name, kind}}
}

// columns describes a statement. osqueryd wants exactly one: it explains the
// text, and stumbles over the rows of a second.
func (e *engine) columns(sql string) ([]column, error) {
	tokens, err := lex(sql)
	if err != nil {
		return nil, err
	}
	statements := splitStatements(tokens)
	switch len(statements) {
	case 0:
		return nil, errors.New("not an error")
	case 1:
		return e.describe(statements[0])
	}
	if _, err := e.describe(statements[0]); err != nil {
		return nil, err
	}
	return nil, errors.New("map::at")
}

func (e *engine) describe(statement []token) ([]column, error) {
	s, err := parseSelect(statement)
	if err != nil {
		return nil, err
	}
	t, err := e.resolve(s)
	if err != nil {
		return nil, err
	}
	var out []column
	for _, it := range s.items {
		out = append(out, it.describe(t)...)
	}
	return out, nil
}

func isInteger(kind string) bool {
	return kind == "INTEGER" || kind == "BIGINT" || kind == "UNSIGNED BIGINT"
}

// typed gives the rows of an extension the types of their columns: text in a
// column of numbers is NULL, and columns that the table has not are dropped.
func (t *tableDef) typed(in rows) rows {
	out := make(rows, 0, len(in))
	for _, r := range in {
		row := make(map[string]string, len(t.columns))
		for _, c := range t.columns {
			v := r[c.name]
			if _, err := strconv.ParseInt(v, 0, 64); err != nil && isInteger(c.kind) {
				v = ""
			}
			row[c.name] = v
		}
		out = append(out, row)
	}
	return out
}

// numeric turns the values of number columns into JSON numbers.
func numeric(list rows, columns []column) []map[string]any {
	kinds := map[string]string{}
	for _, c := range columns {
		kinds[c.name] = c.kind
	}
	out := make([]map[string]any, 0, len(list))
	for _, r := range list {
		row := make(map[string]any, len(r))
		for k, v := range r {
			row[k] = numericValue(kinds[k], v)
		}
		out = append(out, row)
	}
	return out
}

func numericValue(kind, text string) any {
	if isInteger(kind) {
		if n, err := strconv.ParseInt(text, 10, 64); err == nil {
			return n
		}
	}
	if kind == "DOUBLE" {
		if f, err := strconv.ParseFloat(text, 64); err == nil {
			return f
		}
	}
	return text
}
