package osquerydtest

import (
	"fmt"
	"strings"
)

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
