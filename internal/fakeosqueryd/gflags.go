package fakeosqueryd

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"maps"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// flagKind is the type of a flag, as gflags names it.
type flagKind string

const (
	kindBool   flagKind = "bool"
	kindString flagKind = "string"
	kindInt32  flagKind = "int32"
	kindUint32 flagKind = "uint32"
	kindUint64 flagKind = "uint64"
)

// flagDef is one row of the flag tables.
type flagDef struct {
	name string
	kind flagKind
	def  string
	desc string
	os   string // empty: every operating system
}

// flagGroup is which macro of osquery's source a flag is made with.
type flagGroup int

const (
	groupCLI flagGroup = iota
	groupOption
	groupHidden
	groupShell
	groupGflags // known to the parser, not to osquery
)

type flagState struct {
	flagDef
	group flagGroup
	value string
	isSet bool
}

// flagAliases slip past the rule that a config cannot set a CLI flag.
var flagAliases = map[string]string{
	"socket":                         "extensions_socket",
	"timeout":                        "extensions_timeout",
	"interval":                       "extensions_interval",
	"db_path":                        "database_path",
	"config_tls_refresh":             "config_refresh",
	"config_tls_accelerated_refresh": "config_accelerated_refresh",
	"log_numerics_as_numbers":        "logger_numerics",
	"osquery_log_dir":                "logger_path",
	"logger_tls_max":                 "logger_tls_max_linesize",
}

const (
	undefokText = "comma-separated list of flag names that it is okay to specify on the command line even if the program " +
		"does not define a flag with that name.  IMPORTANT: flags in this list that have arguments MUST use the flag=value format"
	logDirText = "If specified, logfiles are written into this directory instead of the default logging directory."
)

// gflagsFlags are those of the parser and of the logging library.
var gflagsFlags = []flagDef{
	{name: "alsologtostderr", kind: kindBool, def: "false"},
	{name: "colorlogtostderr", kind: kindBool, def: "false"},
	{name: "flagfile", kind: kindString, def: "", desc: "load flags from file"},
	{name: "fromenv", kind: kindString, def: "", desc: "set flags from the environment [use 'export FLAGS_flag1=value']"},
	{name: "help", kind: kindBool, def: "false"},
	{name: "helpfull", kind: kindBool, def: "false"},
	{name: "helpshort", kind: kindBool, def: "false"},
	{name: "helpxml", kind: kindBool, def: "false"},
	{name: "log_dir", kind: kindString, def: "", desc: logDirText},
	{name: "minloglevel", kind: kindInt32, def: "0"},
	{name: "tryfromenv", kind: kindString, def: "", desc: "set flags from the environment if present"},
	{name: "undefok", kind: kindString, def: "", desc: undefokText},
	{name: "v", kind: kindInt32, def: "0"},
	{name: "version", kind: kindBool, def: "false"},
}

// flagSet holds the flags of one process. It is safe for concurrent use.
type flagSet struct {
	mu    sync.RWMutex
	flags map[string]*flagState
}

func newFlagSet() *flagSet {
	fs := &flagSet{flags: make(map[string]*flagState, 320)}
	fs.add(gflagsFlags, groupGflags)
	fs.add(cliFlags, groupCLI)
	fs.add(optionFlags, groupOption)
	fs.add(hiddenFlags, groupHidden)
	fs.add(shellFlags, groupShell)
	return fs
}

// bpfFlags went away after 5.23: on argv they are unknown then.
var bpfFlags = []flagDef{
	{name: "bpf_buffer_storage_size", kind: kindUint64, def: "512", desc: "How many slots each buffer storage should have", os: "linux"},
	{name: "bpf_perf_event_array_exp", kind: kindUint64, def: "10", desc: "Size of the perf event array, as a power of two", os: "linux"},
	{name: "enable_bpf_events", kind: kindBool, def: "false", desc: "Enables the bpf_process_events publisher", os: "linux"},
}

// forVersion adds the flags that not every version has.
func (fs *flagSet) forVersion(version string) {
	if !versionAtLeast("5.24", version) {
		fs.add(bpfFlags, groupOption)
	}
}

func (fs *flagSet) add(defs []flagDef, group flagGroup) {
	for _, d := range defs {
		if d.os == "" || d.os == runtime.GOOS {
			fs.flags[d.name] = &flagState{flagDef: d, group: group, value: d.def}
		}
	}
}

func realName(name string) string {
	if real, ok := flagAliases[name]; ok {
		return real
	}
	return name
}

func (fs *flagSet) lookup(name string) (flagState, bool) {
	fs.mu.RLock()
	defer fs.mu.RUnlock()
	f, ok := fs.flags[realName(name)]
	if !ok {
		return flagState{}, false
	}
	return *f, true
}

// set checks and stores a value.
func (fs *flagSet) set(name, value string) error {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	f, ok := fs.flags[realName(name)]
	if !ok {
		return fmt.Errorf("unknown command line flag '%s'", name)
	}
	v, err := f.kind.normalize(value)
	if err != nil {
		return fmt.Errorf("illegal value '%s' specified for %s flag '%s'", value, f.kind, name)
	}
	if f.name == "alarm_timeout" {
		if n, err := strconv.ParseUint(v, 10, 64); err != nil || n < 10 {
			return fmt.Errorf("%w '%s' for flag '%s'", errLowAlarm, v, f.name)
		}
	}
	f.value, f.isSet = v, true
	return nil
}

// errLowAlarm is of the one validator there is.
var errLowAlarm = errors.New("failed validation of new value")

// setCustom keeps a flag that only a config has: any name with custom_.
func (fs *flagSet) setCustom(name, value string) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.flags[name] = &flagState{flagDef: flagDef{name: name, kind: kindString}, group: groupOption, value: value, isSet: true}
}

// normalize checks a value as gflags does, and gives it as gflags would show it.
func (k flagKind) normalize(value string) (string, error) {
	switch k {
	case kindBool:
		b, ok := parseBool(value)
		if !ok {
			return "", fmt.Errorf("not a bool")
		}
		return strconv.FormatBool(b), nil
	case kindInt32:
		n, err := parseInt32(value)
		return strconv.FormatInt(n, 10), err
	case kindUint32:
		n, err := parseUint(value, 32)
		return strconv.FormatUint(n, 10), err
	case kindUint64:
		n, err := parseUint(value, 64)
		return strconv.FormatUint(n, 10), err
	case kindString:
	}
	return value, nil
}

// parseInt32 reads decimal, or hexadecimal without a sign; octal there is none.
func parseInt32(value string) (int64, error) {
	if digits, ok := cutHex(value); ok {
		n, err := strconv.ParseUint(digits, 16, 31)
		return int64(n), err
	}
	return strconv.ParseInt(strings.TrimLeft(value, blanks), 10, 32)
}

func parseUint(value string, bits int) (uint64, error) {
	if digits, ok := cutHex(value); ok {
		return strconv.ParseUint(digits, 16, bits)
	}
	return strconv.ParseUint(strings.TrimPrefix(strings.TrimLeft(value, blanks), "+"), 10, bits)
}

func cutHex(value string) (digits string, ok bool) {
	if digits, ok = strings.CutPrefix(value, "0x"); ok {
		return digits, true
	}
	return strings.CutPrefix(value, "0X")
}

func parseBool(s string) (value, ok bool) {
	switch strings.ToLower(s) {
	case "1", "t", "true", "y", "yes":
		return true, true
	case "0", "f", "false", "n", "no":
		return false, true
	}
	return false, false
}

func (fs *flagSet) str(name string) string {
	f, _ := fs.lookup(name)
	return f.value
}

func (fs *flagSet) bool(name string) bool { return fs.str(name) == "true" }

func (fs *flagSet) num(name string) int64 {
	n, _ := strconv.ParseInt(fs.str(name), 0, 64)
	return n
}

func (fs *flagSet) isDefault(name string) bool {
	f, _ := fs.lookup(name)
	return !f.isSet
}

// seconds reads a flag that holds whole seconds.
func (fs *flagSet) seconds(name string) time.Duration {
	return time.Duration(fs.num(name)) * time.Second
}

// all returns osquery's own flags, sorted.
func (fs *flagSet) all() []flagState {
	fs.mu.RLock()
	defer fs.mu.RUnlock()
	out := make([]flagState, 0, len(fs.flags))
	for _, name := range slices.Sorted(maps.Keys(fs.flags)) {
		if f := fs.flags[name]; f.group != groupGflags {
			out = append(out, *f)
		}
	}
	return out
}

// printUsage writes what --help shows: flags in two groups, one a line.
func (fs *flagSet) printUsage(w io.Writer, version string) {
	fmt.Fprintf(w, "osquery %s, your OS as a high-performance relational database\n", version)
	fmt.Fprintf(w, "Usage: osqueryd [OPTION]... \n\n")
	fmt.Fprintf(w, "osquery command line flags:\n\n")
	width := 0
	for _, f := range fs.all() {
		width = max(width, len(f.name))
	}
	width += 6
	fmt.Fprintf(w, "    --flagfile PATH%s  Line-delimited file of additional flags\n", strings.Repeat(" ", width-13))
	fs.printGroup(w, groupCLI, width)
	fmt.Fprintf(w, "\nosquery configuration options (set by config or CLI flags):\n\n")
	fs.printGroup(w, groupOption, width)
	fmt.Fprintf(w, "\nosquery project page <https://osquery.io>.\n")
}

func (fs *flagSet) printGroup(w io.Writer, group flagGroup, width int) {
	for _, f := range fs.all() {
		if f.group != group {
			continue
		}
		head := "    --" + f.name
		pad := width - len(f.name)
		if f.kind != kindBool {
			head += " VALUE"
			pad -= 6
		}
		fmt.Fprintf(w, "%s%s  %s\n", head, strings.Repeat(" ", max(pad, 0)), f.desc)
	}
}

type xmlFlag struct {
	XMLName xml.Name `xml:"flag"`
	File    string   `xml:"file"`
	Name    string   `xml:"name"`
	Meaning string   `xml:"meaning"`
	Default string   `xml:"default"`
	Current string   `xml:"current"`
	Type    flagKind `xml:"type"`
}

// printXML writes what gflags' --helpxml shows: every flag, hidden ones too,
// an element a line.
func (fs *flagSet) printXML(w io.Writer, program string) {
	fmt.Fprintf(w, "<?xml version=\"1.0\"?>\n<!-- This output should be used with care. We do not report type names for -->\n")
	fmt.Fprintf(w, "<AllFlags>\n<program>%s</program>\n<usage>Warning: SetUsageMessage() never called</usage>\n", program)
	for _, f := range fs.all() {
		out, err := xml.Marshal(xmlFlag{File: "osquery", Name: f.name, Meaning: f.desc, Default: f.def, Current: f.value, Type: f.kind})
		if err != nil {
			continue // a flag's texts are constants; none fails
		}
		fmt.Fprintf(w, "%s\n", out)
	}
	fmt.Fprintf(w, "</AllFlags>\n")
}
