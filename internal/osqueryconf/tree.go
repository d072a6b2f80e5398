package osqueryconf

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// maxConfigDepth is how many levels osqueryd takes, the document being the first
// and a value in it the second.
const maxConfigDepth = 32

// node is a JSON value that keeps the order of its members. It is stricter than
// encoding/json, for what osqueryd's own parser refuses or reads in another way
// must not get past ours: broken UTF-8, half surrogate pairs, NUL. Of a key that stands twice
// the first is kept, as osqueryd keeps it of two queries; the document is written anew then.
type node struct {
	kind    byte // one of { [ " 0 t n
	raw     []byte
	text    string // of a string
	members []member
	items   []*node
}

type member struct {
	key   string
	value *node
}

// get returns the member called key; nil when there is none or it is null.
func (n *node) get(key string) *node {
	if m := n.find(key); m != nil && m.kind != 'n' {
		return m
	}
	return nil
}

// find returns the member called key; nil when there is none.
func (n *node) find(key string) *node {
	for _, m := range n.members {
		if m.key == key {
			return m.value
		}
	}
	return nil
}

// treeParser reads one document.
type treeParser struct {
	data  []byte
	at    int
	twice []string // keys that stood twice in an object, each with its line
}

func (p *treeParser) fail(format string, args ...any) error {
	line := 1 + bytes.Count(p.data[:min(p.at, len(p.data))], []byte{'\n'})
	return fmt.Errorf("line %d: %s", line, fmt.Sprintf(format, args...))
}

// parseTree reads data, which holds one JSON document. twice names the keys that were left out
// because they stood in their object already.
func parseTree(data []byte) (n *node, twice []string, err error) {
	p := &treeParser{data: data}
	if !utf8.Valid(data) {
		return nil, nil, fmt.Errorf("it is not UTF-8")
	}
	n, err = p.value(1)
	if err != nil {
		return nil, nil, err
	}
	if p.skipSpace(); p.at < len(data) {
		return nil, nil, p.fail("%q follows the end of the document", data[p.at])
	}
	return n, p.twice, nil
}

func (p *treeParser) skipSpace() {
	for p.at < len(p.data) {
		switch p.data[p.at] {
		case ' ', '\t', '\r', '\n':
			p.at++
		default:
			return
		}
	}
}

// peek skips white space and returns the next byte, 0 at the end.
func (p *treeParser) peek() byte {
	p.skipSpace()
	if p.at == len(p.data) {
		return 0
	}
	return p.data[p.at]
}

func (p *treeParser) value(depth int) (*node, error) {
	if depth > maxConfigDepth {
		return nil, p.fail("more than %d levels of nesting", maxConfigDepth)
	}
	switch c := p.peek(); {
	case c == 0 && p.at == len(p.data):
		return nil, p.fail("the document ends too early")
	case c == '{':
		return p.object(depth)
	case c == '[':
		return p.array(depth)
	case c == '"':
		start := p.at
		s, err := p.str()
		return &node{kind: '"', text: s, raw: p.data[start:p.at]}, err
	default:
		return p.scalar()
	}
}

func (p *treeParser) object(depth int) (*node, error) {
	n := &node{kind: '{'}
	seen := map[string]bool{}
	p.at++
	if p.peek() == '}' {
		p.at++
		return n, nil
	}
	for {
		if p.peek() != '"' {
			return nil, p.fail("a member's name is missing")
		}
		key, err := p.str()
		if err != nil {
			return nil, err
		}
		if seen[key] {
			p.twice = append(p.twice, p.fail("the key %q is there twice; the first one counts", key).Error())
		}
		if p.peek() != ':' {
			return nil, p.fail("a ':' is missing after %q", key)
		}
		p.at++
		v, err := p.value(depth + 1)
		if err != nil {
			return nil, err
		}
		if !seen[key] {
			n.members = append(n.members, member{key, v})
		}
		seen[key] = true
		if end, err := p.more('}'); end || err != nil {
			return n, err
		}
	}
}

func (p *treeParser) array(depth int) (*node, error) {
	n := &node{kind: '['}
	p.at++
	if p.peek() == ']' {
		p.at++
		return n, nil
	}
	for {
		v, err := p.value(depth + 1)
		if err != nil {
			return nil, err
		}
		n.items = append(n.items, v)
		if end, err := p.more(']'); end || err != nil {
			return n, err
		}
	}
}

// more takes the byte after an element: a comma, or the closing one.
func (p *treeParser) more(closing byte) (end bool, err error) {
	switch c := p.peek(); c {
	case ',':
		p.at++
		return false, nil
	case closing:
		p.at++
		return true, nil
	case 0:
		return false, p.fail("the document ends too early")
	default:
		return false, p.fail("%q stands where ',' or %q should be", c, closing)
	}
}

// scalar reads a number, true, false or null.
func (p *treeParser) scalar() (*node, error) {
	start := p.at
	for p.at < len(p.data) && bytes.IndexByte([]byte(" \t\r\n,:[]{}\""), p.data[p.at]) < 0 {
		p.at++
	}
	raw := p.data[start:p.at]
	switch string(raw) {
	case "true", "false":
		return &node{kind: 't', raw: raw}, nil
	case "null":
		return &node{kind: 'n', raw: raw}, nil
	}
	number := len(raw) > 0 && (raw[0] == '-' || raw[0] >= '0' && raw[0] <= '9')
	if !number || !json.Valid(raw) {
		return nil, p.fail("%.40q is not a JSON value", raw)
	}
	if _, err := strconv.ParseFloat(string(raw), 64); err != nil {
		return nil, p.fail("the number %.40s is too large", raw)
	}
	return &node{kind: '0', raw: raw}, nil
}

// str reads a string, from its opening quote.
func (p *treeParser) str() (string, error) {
	start := p.at
	for p.at++; p.at < len(p.data); p.at++ {
		switch c := p.data[p.at]; {
		case c == '"':
			p.at++
			var s string
			if err := json.Unmarshal(p.data[start:p.at], &s); err != nil {
				return "", p.fail("a string is malformed: %v", err)
			}
			return s, nil
		case c < ' ':
			return "", p.fail("a string holds the control character %#02x", c)
		case c == '\\':
			if err := p.escape(); err != nil {
				return "", err
			}
		}
	}
	return "", p.fail("a string does not end")
}

// escape checks what follows a backslash and stops at its last byte.
func (p *treeParser) escape() error {
	p.at++
	if p.at < len(p.data) && p.data[p.at] != 'u' {
		return nil // json.Unmarshal knows the others
	}
	r, ok := p.hex()
	if !ok {
		return p.fail("a \\u escape is malformed")
	}
	if r == 0 {
		return p.fail("a string holds NUL, where osqueryd would cut it off")
	}
	if !utf16.IsSurrogate(r) {
		return nil
	}
	if p.at+2 < len(p.data) && p.data[p.at+1] == '\\' && p.data[p.at+2] == 'u' {
		p.at += 2
		if low, ok := p.hex(); ok && utf16.DecodeRune(r, low) != utf8.RuneError {
			return nil
		}
	}
	return p.fail("a string holds half a surrogate pair")
}

// hex reads the four digits after a 'u' and stops at the last.
func (p *treeParser) hex() (rune, bool) {
	if p.at+4 >= len(p.data) {
		return 0, false
	}
	v, err := strconv.ParseUint(string(p.data[p.at+1:p.at+5]), 16, 16)
	p.at += 4
	return rune(v), err == nil
}

// write appends the value as JSON, without white space.
func (n *node) write(b []byte) []byte {
	switch n.kind {
	case '{':
		b = append(b, '{')
		for i, m := range n.members {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(appendJSONString(b, m.key), ':')
			b = m.value.write(b)
		}
		return append(b, '}')
	case '[':
		b = append(b, '[')
		for i, v := range n.items {
			if i > 0 {
				b = append(b, ',')
			}
			b = v.write(b)
		}
		return append(b, ']')
	default:
		return append(b, n.raw...)
	}
}

// appendJSONString appends s, which is UTF-8, as a JSON string. None of the ways in which
// JSON can write s is shorter, so that what is written anew never outgrows what came.
func appendJSONString(b []byte, s string) []byte {
	b = append(b, '"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c >= ' ':
			b = append(b, c)
		case strings.IndexByte(shortEscapes, c) >= 0:
			b = append(b, '\\', "bfnrt"[strings.IndexByte(shortEscapes, c)])
		default:
			b = fmt.Appendf(b, "\\u%04x", c)
		}
	}
	return append(b, '"')
}

// shortEscapes are the control characters that JSON has two letters for.
const shortEscapes = "\b\f\n\r\t"
