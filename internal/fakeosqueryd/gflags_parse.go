package fakeosqueryd

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// argParser reads argv, flagfiles and the environment as gflags does:
// --name=value, --name value, a single dash, - for _ in a name, --noname for a
// bool, -- to end.
type argParser struct {
	fs        *flagSet
	program   string            // argv[0]
	stderr    io.Writer         // what validators say comes at once
	errs      map[string]string // by flag: gflags reports them in that order
	undefined map[string]bool
	died      string // said in place of all errors, by a mistake that ends gflags at once
}

// parseArgs reads argv. Its mistakes are told by the fatal of what it returns.
func (fs *flagSet) parseArgs(args []string, stderr io.Writer) *argParser {
	a := &argParser{fs: fs, program: args[0], stderr: stderr, errs: map[string]string{}, undefined: map[string]bool{}}
	for i := 1; i < len(args) && args[i] != "--" && a.died == ""; i++ {
		if len(args[i]) < 2 || args[i][0] != '-' {
			continue
		}
		s, err := fs.split(cutDashes(args[i]))
		switch {
		case err != nil:
			a.undefine(s.key, err)
		case s.hasValue:
			a.assign(s.name, s.value)
		case i+1 == len(args):
			a.mistake(s.key, fmt.Errorf("flag '%s' is missing its argument%s", args[i], fs.described(s.name)))
		default:
			i++
			a.assign(s.name, args[i]) //nolint:gosec // the case before saw to the last one
		}
	}
	return a
}

// fatal is what gflags prints before it exits with 1, or "".
func (a *argParser) fatal() string {
	if a.died == "" {
		a.forgive()
	}
	if a.died != "" {
		return a.died
	}
	said := make([]string, 0, len(a.errs))
	for _, key := range slices.Sorted(maps.Keys(a.errs)) {
		said = append(said, a.errs[key])
	}
	return strings.Join(said, "\n")
}

// forgive drops the complaints about flags that --undefok names.
func (a *argParser) forgive() {
	for _, name := range a.list(a.fs.str("undefok")) {
		for _, key := range []string{name, "no" + name} {
			if a.undefined[key] {
				delete(a.errs, key)
				break
			}
		}
	}
}

// setting is a flag as an argument or a line gives it.
type setting struct {
	key      string // as written
	name     string // of the flag, or of its alias
	value    string
	hasValue bool
}

// split reads "name=value" or "name". A bool always has a value; that of
// --noname is false, whatever is behind an equals sign.
func (fs *flagSet) split(arg string) (setting, error) {
	var s setting
	s.key, s.value, s.hasValue = strings.Cut(arg, "=")
	name, f, ok := fs.find(s.key)
	if ok {
		s.name = name
		if f.kind == kindBool && !s.hasValue {
			s.value, s.hasValue = "true", true
		}
		return s, nil
	}
	no, cut := strings.CutPrefix(s.key, "no")
	name, f, ok = fs.find(no)
	switch {
	case !cut || !ok:
		return s, fmt.Errorf("unknown command line flag '%s'", s.key)
	case f.kind != kindBool:
		return s, fmt.Errorf("boolean value (%s) specified for %s command line flag", s.key, f.kind)
	}
	s.name, s.value, s.hasValue = name, "false", true
	return s, nil
}

// find is lookup for a name as people write it, with - for _. It gives the name
// as it is in the tables.
func (fs *flagSet) find(name string) (string, flagState, bool) {
	name = strings.ReplaceAll(name, "-", "_")
	f, ok := fs.lookup(name)
	return name, f, ok
}

// described is what gflags adds of a flag that has a text: osquery's own are
// made without, and an alias has its name.
func (fs *flagSet) described(name string) string {
	f, _ := fs.lookup(name)
	switch {
	case f.name != name:
		return "; flag description: " + name
	case f.group == groupGflags && f.desc != "":
		return "; flag description: " + f.desc
	}
	return ""
}

// assign sets a flag, and follows those that lead to others.
func (a *argParser) assign(name, value string) {
	if err := a.fs.set(name, value); err != nil {
		if errors.Is(err, errLowAlarm) {
			fmt.Fprintln(a.stderr, "Alarm timeout cannot be lower than 10 seconds")
		}
		a.mistake(name, err)
		return
	}
	switch name {
	case "flagfile":
		a.readFlagfiles(value)
	case "fromenv":
		a.readEnv(value, true)
	case "tryfromenv":
		a.readEnv(value, false)
	}
}

func (a *argParser) mistake(key string, err error) { a.errs[key] = "ERROR: " + err.Error() }

func (a *argParser) undefine(key string, err error) {
	a.undefined[key] = true
	a.mistake(key, err)
}

// readEnv sets the flags of a list from variables named FLAGS_name.
func (a *argParser) readEnv(list string, required bool) {
	for _, key := range a.list(list) {
		name, _, ok := a.fs.find(key)
		if !ok {
			a.undefine(key, fmt.Errorf("unknown command line flag '%s' (via --fromenv or --tryfromenv)", key))
			continue
		}
		value, ok := os.LookupEnv("FLAGS_" + key)
		switch {
		case !ok && required:
			a.mistake(key, fmt.Errorf("FLAGS_%s not found in environment", key))
		case !ok:
		case value == "fromenv" || value == "tryfromenv":
			a.mistake(key, fmt.Errorf("infinite recursion on environment flag '%s'", value))
		default:
			a.assign(name, value)
		}
	}
}

// list splits at commas. A list with a mistake ends everything.
func (a *argParser) list(text string) []string {
	var out []string
	for text != "" {
		item, rest, _ := strings.Cut(text, ",")
		switch {
		case item == "":
			a.died = "ERROR: empty flaglist entry"
			return nil
		case item[0] == '-':
			a.died = "ERROR: flag \"" + text + "\" begins with '-'"
			return nil
		}
		out = append(out, item)
		text = rest
	}
	return out
}

// cutDashes takes away one or two.
func cutDashes(s string) string { return strings.TrimPrefix(strings.TrimPrefix(s, "-"), "-") }

// errnoText returns the text of strerror.
func errnoText(err error) string {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return err.Error()
	}
	s := errno.Error()
	return strings.ToUpper(s[:1]) + s[1:]
}

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

// named reports whether one of the patterns means this program.
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
