package osquerydtest

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"syscall"
)

// parseArgs reads argv as gflags does: --name=value, --name value, a single
// dash, --noname for a bool, -- to end. It returns the text that gflags prints
// before it exits with 1, or "".
func (fs *flagSet) parseArgs(args []string) (fatal string) {
	errs := map[string]string{} // by flag: gflags reports them in that order
	for i := 1; i < len(args); i++ {
		arg := args[i]
		if arg == "--" {
			break
		}
		if len(arg) < 2 || arg[0] != '-' {
			continue
		}
		name, value, hasValue := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		used, err := fs.parseOne(name, value, hasValue, args[i+1:])
		i += used
		if err != nil {
			errs[name] = "ERROR: " + err.Error()
		}
		if name == "flagfile" && err == nil {
			if msg := fs.readFlagfile(fs.str("flagfile")); msg != "" {
				return msg
			}
		}
	}
	var said []string
	if fs.num("alarm_timeout") < 10 {
		said = append(said, "Alarm timeout cannot be lower than 10 seconds") // by the validator, at once
		errs["alarm_timeout"] = fmt.Sprintf("ERROR: failed validation of new value '%s' for flag 'alarm_timeout'", fs.str("alarm_timeout"))
	}
	for _, name := range slices.Sorted(maps.Keys(errs)) {
		said = append(said, errs[name])
	}
	return strings.Join(said, "\n")
}

// parseOne sets one flag and says how many of the following words it used.
func (fs *flagSet) parseOne(name, value string, hasValue bool, rest []string) (int, error) {
	f, ok := fs.lookup(name)
	if !ok {
		if no, cut := strings.CutPrefix(name, "no"); cut && !hasValue {
			if nf, ok := fs.lookup(no); ok && nf.kind == kindBool {
				return 0, fs.set(no, "false")
			}
		}
		return 0, fmt.Errorf("unknown command line flag '%s'", name)
	}
	switch {
	case hasValue:
		return 0, fs.set(name, value)
	case f.kind == kindBool:
		return 0, fs.set(name, "true")
	case len(rest) == 0:
		return 0, fmt.Errorf("flag '--%s' is missing its argument", name)
	}
	return 1, fs.set(name, rest[0])
}

// readFlagfile reads lines of --name=value. What it does not know it ignores
// in silence, unlike argv.
func (fs *flagSet) readFlagfile(path string) (fatal string) {
	if path == "" {
		return ""
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return path + ": " + errnoText(err)
	}
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] != '-' {
			continue
		}
		name, value, hasValue := strings.Cut(strings.TrimLeft(line, "-"), "=")
		_, err := fs.parseOne(name, value, hasValue, nil)
		if _, known := fs.lookup(name); err != nil && known {
			return "ERROR: " + err.Error()
		}
	}
	return ""
}

// errnoText gives the text of strerror.
func errnoText(err error) string {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return err.Error()
	}
	s := errno.Error()
	return strings.ToUpper(s[:1]) + s[1:]
}
