package osquerydtest

import (
	"os"
	"path/filepath"
	"strings"
)

// blanks are what isspace of C knows.
const blanks = " \t\n\v\f\r"

// readFlagfiles reads each file of a list.
func (a *argParser) readFlagfiles(list string) {
	for _, path := range a.list(list) {
		data, err := os.ReadFile(path)
		if err != nil {
			a.died = path + ": " + errnoText(err)
			return
		}
		a.readFlagfile(string(data))
		if a.died != "" {
			return
		}
	}
}

// readFlagfile reads lines of --name=value. One that names no flag or lacks its
// value is ignored in silence, unlike in argv. Lines of program names say for
// whom the flags after them are.
func (a *argParser) readFlagfile(text string) {
	ours, inNames := true, false
	for more := true; more && a.died == ""; {
		var line string
		line, text, more = flagfileLine(text)
		switch {
		case line == "" || line[0] == '#':
		case line[0] == '-':
			inNames = false
			if s, err := a.fs.split(cutDashes(line)); ours && err == nil && s.hasValue {
				a.assign(s.name, s.value)
			}
		default:
			ours = inNames && ours || a.named(line)
			inNames = true
		}
	}
}

// flagfileLine cuts off a line as gflags does: blanks at its end belong to it,
// and while there is a carriage return further down, that is the end.
func flagfileLine(text string) (line, rest string, more bool) {
	text = strings.TrimLeft(text, blanks)
	end := strings.IndexByte(text, '\r')
	if end < 0 {
		end = strings.IndexByte(text, '\n')
	}
	if end < 0 {
		return text, "", false
	}
	return text[:end], text[end+1:], true
}

// named says whether one of the patterns means this program.
func (a *argParser) named(patterns string) bool {
	for pattern := range strings.SplitSeq(patterns, " ") {
		for _, name := range []string{a.program, filepath.Base(a.program)} {
			if ok, err := filepath.Match(pattern, name); pattern == name || ok && err == nil {
				return true
			}
		}
	}
	return false
}
