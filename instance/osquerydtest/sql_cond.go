package osquerydtest

import (
	"cmp"
	"regexp"
	"strconv"
	"strings"
)

// list reads the values of IN.
func (p *parser) list(c *condition) error {
	if err := p.expect("("); err != nil {
		return err
	}
	for {
		v := p.next()
		if v.kind == tokEnd || v.kind == tokSymbol {
			p.pos--
			return p.syntax()
		}
		c.values = append(c.values, v.text)
		if p.accept(")") {
			return nil
		}
		if err := p.expect(","); err != nil {
			return err
		}
	}
}

// constraint operators, as osqueryd hands them to extensions.
var constraintOps = map[string]int{"=": 2, ">": 4, "<=": 8, "<": 16, ">=": 32, "like": 65, "in": 2}

func (c condition) literalOnly() bool { return c.column == "'" }

// holds checks a row.
func (c condition) holds(row map[string]string) bool {
	if c.literalOnly() {
		return compare(c.values[0], c.op, c.values[1])
	}
	got := row[c.column]
	if c.op != "in" {
		return compare(got, c.op, c.values[0])
	}
	for _, v := range c.values {
		if compare(got, "=", v) {
			return true
		}
	}
	return false
}

// compare takes numbers as numbers when both are.
func compare(a, op, b string) bool {
	if op == "like" {
		return like(a, b)
	}
	n := strings.Compare(a, b)
	x, errX := strconv.ParseFloat(a, 64)
	y, errY := strconv.ParseFloat(b, 64)
	if errX == nil && errY == nil {
		n = cmp.Compare(x, y)
	}
	switch op {
	case "=":
		return n == 0
	case "!=":
		return n != 0
	case "<":
		return n < 0
	case "<=":
		return n <= 0
	case ">":
		return n > 0
	default:
		return n >= 0
	}
}

func like(s, pattern string) bool {
	expr := regexp.QuoteMeta(pattern)
	expr = strings.ReplaceAll(strings.ReplaceAll(expr, "%", ".*"), "_", ".")
	ok, err := regexp.MatchString("(?is)^"+expr+"$", s)
	return err == nil && ok
}
