package fakeosqueryd

import (
	"fmt"
	"strconv"
	"strings"
)

// selection is a parsed SELECT.
type selection struct {
	items []item
	table string
	where []condition
	order string
	desc  bool
	limit int // -1: none
}

// item is one result column.
type item struct {
	star    bool
	count   bool    // count(*)
	sleep   float64 // seconds; sleep(n) when >= 0
	column  string
	literal *string
	name    string
	kind    string // of a literal
}

// condition is column op value; in has several values.
type condition struct {
	column string
	op     string
	values []string
}

// parser reads one statement.
type parser struct {
	tokens []token
	pos    int
}

func (p *parser) peek() token {
	if p.pos < len(p.tokens) {
		return p.tokens[p.pos]
	}
	return token{}
}

func (p *parser) next() token {
	t := p.peek()
	p.pos++
	return t
}

func (p *parser) accept(text string) bool {
	if p.peek().is(text) {
		p.pos++
		return true
	}
	return false
}

// syntax is SQLite's message for the present token.
func (p *parser) syntax() error {
	if p.peek().kind == tokEnd {
		return fmt.Errorf("incomplete input")
	}
	return fmt.Errorf("near \"%s\": syntax error", p.peek().text)
}

func (p *parser) expect(text string) error {
	if !p.accept(text) {
		return p.syntax()
	}
	return nil
}

func parseSelect(tokens []token) (*selection, error) {
	p := &parser{tokens: tokens}
	s := &selection{limit: -1}
	if err := p.modification(); err != nil {
		return nil, err
	}
	if err := p.expect("select"); err != nil {
		return nil, err
	}
	p.accept("distinct")
	if err := p.items(s); err != nil {
		return nil, err
	}
	if err := p.tail(s); err != nil {
		return nil, err
	}
	if p.peek().kind != tokEnd {
		return nil, p.syntax()
	}
	return s, nil
}

func (p *parser) items(s *selection) error {
	for {
		it, err := p.item()
		if err != nil {
			return err
		}
		s.items = append(s.items, it)
		if !p.accept(",") {
			return nil
		}
	}
}

func (p *parser) item() (item, error) {
	it, err := p.expr()
	if err != nil || it.star {
		return it, err
	}
	explicit := p.accept("as")
	t := p.peek()
	switch {
	case (t.kind == tokWord && !isKeyword(t)) || t.kind == tokString:
		it.name = p.next().text
	case explicit:
		return it, p.syntax()
	}
	return it, nil
}

func (p *parser) expr() (item, error) {
	t := p.next()
	switch {
	case t.is("*"):
		return item{star: true, sleep: -1}, nil
	case t.kind == tokString:
		return item{literal: &t.text, sleep: -1, name: "'" + t.text + "'", kind: "TEXT"}, nil
	case t.kind == tokNumber:
		return item{literal: &t.text, sleep: -1, name: t.text, kind: numberKind(t.text)}, nil
	case t.is("null"):
		return item{literal: new(string), sleep: -1, name: "NULL", kind: "UNKNOWN"}, nil
	case t.kind == tokWord && p.peek().is("("):
		return p.function(t.text)
	case t.kind == tokWord && !isKeyword(t):
		return item{column: p.qualified(t.text), sleep: -1}, nil
	}
	p.pos--
	return item{}, p.syntax()
}

// qualified drops the table of table.column.
func (p *parser) qualified(name string) string {
	if p.accept(".") {
		return p.next().text
	}
	return name
}

func isKeyword(t token) bool {
	for _, k := range []string{"from", "where", "and", "limit", "order", "group", "join", "select", "as", "by"} {
		if t.is(k) {
			return true
		}
	}
	return false
}

func (p *parser) function(name string) (item, error) {
	p.next() // the parenthesis
	arg := p.next()
	if err := p.expect(")"); err != nil {
		return item{}, err
	}
	it := item{sleep: -1, name: name + "(" + arg.text + ")"}
	switch strings.ToLower(name) {
	case "count":
		it.count = true
	case "sleep":
		n, err := strconv.ParseFloat(arg.text, 64)
		if err != nil {
			return it, fmt.Errorf("near \"%s\": syntax error", arg.text)
		}
		it.sleep = n
	default:
		return it, fmt.Errorf("no such function: %s", name)
	}
	return it, nil
}

func (p *parser) tail(s *selection) error {
	if p.accept("from") {
		t := p.next()
		if t.kind != tokWord || isKeyword(t) {
			p.pos--
			return p.syntax()
		}
		s.table = t.text
	}
	if p.accept("where") {
		if err := p.conditions(s); err != nil {
			return err
		}
	}
	if p.accept("order") {
		if err := p.expect("by"); err != nil {
			return err
		}
		s.order = p.qualified(p.next().text)
		if s.desc = p.accept("desc"); !s.desc {
			p.accept("asc")
		}
	}
	if p.accept("limit") {
		t := p.next()
		n, err := strconv.Atoi(t.text)
		if err != nil {
			return fmt.Errorf("no such column: %s", t.text)
		}
		s.limit = n
	}
	return nil
}

func (p *parser) conditions(s *selection) error {
	for {
		c, err := p.condition()
		if err != nil {
			return err
		}
		s.where = append(s.where, c)
		if !p.accept("and") {
			return nil
		}
	}
}

func (p *parser) condition() (condition, error) {
	t := p.next()
	if t.kind == tokEnd || t.kind == tokSymbol || isKeyword(t) {
		p.pos--
		return condition{}, p.syntax()
	}
	c := condition{column: t.text}
	if t.kind == tokWord {
		c.column = p.qualified(t.text)
	} else {
		c.column = "'" // a literal on the left: 1=1
		c.values = []string{t.text}
	}
	op := p.next()
	switch {
	case op.is("in"):
		c.op = "in"
		err := p.list(&c)
		return c, err
	case op.is("=") || op.is("=="):
		c.op = "="
	case op.is("!=") || op.is("<>"):
		c.op = "!="
	case op.is("<"), op.is("<="), op.is(">"), op.is(">="), op.is("like"):
		c.op = strings.ToLower(op.text)
	default:
		p.pos--
		return c, p.syntax()
	}
	v := p.next()
	if v.kind == tokEnd || v.kind == tokSymbol {
		p.pos--
		return c, p.syntax()
	}
	c.values = append(c.values, v.text)
	return c, nil
}

type tokenKind int

const (
	tokEnd tokenKind = iota
	tokWord
	tokString
	tokNumber
	tokSymbol
)

type token struct {
	kind tokenKind
	text string
}

// is compares a keyword or symbol, in any case.
func (t token) is(text string) bool {
	return (t.kind == tokWord || t.kind == tokSymbol) && strings.EqualFold(t.text, text)
}

// lex splits SQL; statements are split at the semicolons by splitStatements.
func lex(sql string) ([]token, error) {
	var out []token
	for i := 0; i < len(sql); {
		c := sql[i]
		switch {
		case strings.IndexByte(" \t\r\n", c) >= 0:
			i++
		case strings.HasPrefix(sql[i:], "--"):
			end := strings.IndexByte(sql[i:], '\n')
			if end < 0 {
				return out, nil
			}
			i += end
		case c == '\'' || c == '"' || c == '`':
			t, n, err := lexQuoted(sql[i:], c)
			if err != nil {
				return nil, err
			}
			out, i = append(out, t), i+n
		case isDigit(c):
			n := span(sql[i:], func(c byte) bool { return isDigit(c) || c == '.' })
			out, i = append(out, token{tokNumber, sql[i : i+n]}), i+n
		case isWordByte(c):
			n := span(sql[i:], func(c byte) bool { return isWordByte(c) || isDigit(c) })
			out, i = append(out, token{tokWord, sql[i : i+n]}), i+n
		default:
			n := symbolLen(sql[i:])
			out, i = append(out, token{tokSymbol, sql[i : i+n]}), i+n
		}
	}
	return out, nil
}

// lexQuoted reads a literal or a quoted name; a doubled quote stands for
// itself.
func lexQuoted(s string, quote byte) (token, int, error) {
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		if s[i] != quote {
			b.WriteByte(s[i])
			continue
		}
		if i+1 < len(s) && s[i+1] == quote {
			b.WriteByte(quote)
			i++
			continue
		}
		kind := tokWord
		if quote == '\'' {
			kind = tokString
		}
		return token{kind, b.String()}, i + 1, nil
	}
	return token{}, 0, fmt.Errorf("unrecognized token: \"%s\"", s)
}

func symbolLen(s string) int {
	for _, two := range []string{"<=", ">=", "!=", "<>", "=="} {
		if strings.HasPrefix(s, two) {
			return 2
		}
	}
	return 1
}

func span(s string, in func(byte) bool) int {
	n := 0
	for n < len(s) && in(s[n]) {
		n++
	}
	return n
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

func isWordByte(c byte) bool {
	return c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= 0x80
}

// splitStatements cuts at semicolons and drops empty statements.
func splitStatements(tokens []token) [][]token {
	var out [][]token
	var cur []token
	for _, t := range append(tokens, token{tokSymbol, ";"}) {
		if !t.is(";") {
			cur = append(cur, t)
			continue
		}
		if len(cur) > 0 {
			out = append(out, cur)
		}
		cur = nil
	}
	return out
}
