package instance

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/osqvisor/osqvisor/internal/osqueryflags"
)

// flag is one that is passed to osqueryd.
type flag struct{ name, value string }

// sdkFlags are the flags of a run, in the order in which they are passed. What
// matters for security stands on argv, because osqueryd ignores an unknown flag in a
// flagfile in silence.
func (o *options) sdkFlags(p paths, name string) []flag {
	flags := []flag{
		{name: "flagfile"}, // empty: the host's own osquery keeps its default file
		{name: "pidfile", value: p.pidfile},
		{name: "database_path", value: p.database},
		{name: "extensions_socket", value: p.socket},
		{name: "extensions_autoload"},
		{name: "extensions_require", value: name},
		{name: "extensions_timeout", value: seconds(o.timeouts.Extensions)},
		{name: "extensions_interval", value: "3"},
		{name: "disable_extensions", value: "false"},
		{name: "config_plugin", value: name},
		{name: "config_refresh", value: seconds(o.configRefresh())},
		{name: "config_accelerated_refresh", value: "30"},
		{name: "config_enable_backup", value: "false"},
		{name: "logger_plugin", value: name},
		{name: "logger_path", value: p.logs},
		{name: "logger_stderr", value: "true"},
		{name: "logger_min_status", value: "0"},
		{name: "logger_event_type", value: "true"},
		{name: "disable_logging", value: "false"},
		{name: "alarm_timeout", value: "15"},
		{name: "thrift_timeout", value: "60"},
		{name: "disable_tables", value: "curl,curl_certificate,carves,yara"},
		{name: "disable_carver", value: "true"},
		{name: "carver_disable_function", value: "true"},
		{name: "disable_audit", value: "true"},
		{name: "disable_events", value: "true"},
		{name: "pack_delimiter", value: "_"},
	}
	flags = append(flags, o.distributedFlags(name)...)
	flags = append(flags, o.watchdogFlags()...)
	return append(flags, o.identifierFlags()...)
}

func (o *options) distributedFlags(name string) []flag {
	flags := []flag{
		{name: "distributed_plugin", value: name},
		{name: "disable_distributed", value: strconv.FormatBool(o.distributedInterval() == 0)},
	}
	if every := o.distributedInterval(); every > 0 {
		flags = append(flags, flag{name: "distributed_interval", value: seconds(every)})
	}
	if o.watchdog.Disabled {
		// Any kill in the middle of a distributed query, ours included, would bar
		// it for a day, though no watchdog has judged it.
		flags = append(flags, flag{name: "distributed_denylist_duration", value: "0"})
	}
	return flags
}

func (o *options) watchdogFlags() []flag {
	w := o.watchdog
	level := "0"
	if w.Restrictive {
		level = "1"
	}
	flags := []flag{
		{name: "disable_watchdog", value: strconv.FormatBool(w.Disabled)},
		{name: "watchdog_level", value: level},
		{name: "watchdog_memory_limit", value: strconv.Itoa(w.MemoryMB)},
		{name: "watchdog_utilization_limit", value: strconv.Itoa(w.CPUPercent)},
		{name: "watchdog_latency_limit", value: seconds(w.CPUFor)},
	}
	if w.Delay > 0 {
		flags = append(flags, flag{name: "watchdog_delay", value: seconds(w.Delay)})
	}
	return flags
}

func (o *options) identifierFlags() []flag {
	if o.hostID == "" {
		return []flag{{name: "host_identifier", value: "instance"}, {name: "specified_identifier"}}
	}
	return []flag{{name: "host_identifier", value: "specified"}, {name: "specified_identifier", value: o.hostID}}
}

// checkFlags names every flag of the host's that cannot be passed, and why.
func (o *options) checkFlags() []error {
	var errs []error
	for _, name := range sortedKeys(o.flags) {
		if err := checkFlag(name, o.flags[name]); err != nil {
			errs = append(errs, &OptionError{Option: "WithFlag", Err: err})
		}
	}
	return errs
}

// checkFlag holds one against the table of flags.
func checkFlag(name, value string) error {
	f, _ := osqueryflags.Lookup(name)
	opposite, negated := osqueryflags.Negated(name)
	switch {
	case name == "":
		return fmt.Errorf("the name is empty")
	case strings.HasPrefix(name, "-"):
		return fmt.Errorf("%q: write the name without dashes", name)
	case strings.ContainsAny(name, "= \t\n"):
		return fmt.Errorf("%q: pass the name and the value separately", name)
	case strings.ContainsRune(value, 0):
		return fmt.Errorf("%s: the value contains a NUL byte", name)
	case strings.Contains(name, "-"): // osqueryd reads it as the other, past all that follows
		return fmt.Errorf("%s is spelled %s", name, strings.ReplaceAll(name, "-", "_"))
	case negated && opposite.Owner != osqueryflags.Anyone:
		return fmt.Errorf("%s is how osqueryd spells %s=false; use that", name, opposite.Name)
	case !hostMay(f) && f.Name != name:
		return fmt.Errorf("%s is another name of %s, which is the SDK's to set", name, f.Name)
	case !hostMay(f) && f.Reason != "":
		return fmt.Errorf("%s %s", name, f.Reason)
	case !hostMay(f):
		return fmt.Errorf("%s is set by the SDK; see the options of package instance for what it depends on", name)
	case name == "pack_delimiter" && strings.Contains(value, ":"):
		return fmt.Errorf("pack_delimiter: a colon makes osqueryd lose its denylist")
	}
	return nil
}

func hostMay(f osqueryflags.Flag) bool {
	return f.Owner == osqueryflags.Anyone || f.Owner == osqueryflags.Host
}

// argv is the command line of a run. Flags that this binary does not have are left out.
func (o *options) argv(p paths, name string, b Binary) []string {
	args := []string{b.Path}
	if !strings.Contains(filepath.Base(b.Path), "osqueryd") {
		args = append(args, "--D") // by any other name, a link's included, it would be the shell
	}
	for _, f := range o.passedFlags(p, name, b) {
		args = append(args, "--"+f.name+"="+f.value)
	}
	return args
}

// passedFlags are the flags of a run with the values that they are passed with.
func (o *options) passedFlags(p paths, name string, b Binary) []flag {
	var passed []flag
	set := map[string]bool{}
	for _, f := range o.sdkFlags(p, name) {
		if v, ok := o.flags[f.name]; ok { // checkFlags saw to it that the host may
			f.value = v
		}
		set[f.name] = true
		if !b.lacks[f.name] {
			passed = append(passed, f)
		}
	}
	for _, name := range sortedKeys(o.flags) {
		if !set[name] {
			passed = append(passed, flag{name: name, value: o.flags[name]})
		}
	}
	return passed
}

func seconds(d time.Duration) string { return strconv.Itoa(int(d / time.Second)) }

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// probeFlag is one that no osqueryd has. Passing it makes gflags report every
// unknown flag and every illegal value and exit, before anything is started.
const probeFlag = "osqvisor_probe"

var (
	unknownFlagPattern  = regexp.MustCompile(`unknown command line flag '([^']*)'`)
	illegalValuePattern = regexp.MustCompile(`ERROR: (illegal value .* specified for .* flag '([^']*)'|.*failed validation of new value .* for flag '([^']*)')`)
)

// flagReport is what an osqueryd objects to in a command line.
type flagReport struct {
	unknown map[string]bool
	illegal []string
}

// probeFlags runs the binary with args for its objections. Output that is not gflags' has
// none.
func (o *options) probeFlags(ctx context.Context, path string, args []string) (flagReport, error) {
	args = append(append([]string{"--flagfile="}, args...), "--"+probeFlag)
	out, err := o.checks.run(ctx, probe{
		path: path, args: args, env: o.env, both: true, refuses: true, timeout: o.timeouts.Binary,
	})
	v := flagReport{unknown: map[string]bool{}}
	var exit exitStatus
	if err != nil && !errors.As(err, &exit) {
		return v, fmt.Errorf("%w: %s: %w", ErrBinaryUnusable, path, err)
	}
	for _, m := range unknownFlagPattern.FindAllSubmatch(out, -1) {
		if name := string(m[1]); name != probeFlag {
			v.unknown[name] = true
		}
	}
	for _, m := range illegalValuePattern.FindAllSubmatch(out, -1) {
		v.illegal = append(v.illegal, string(m[1]))
	}
	return v, nil
}

// sdkProbe is a command line with every flag that the SDK may pass.
func sdkProbe() []string {
	o := defaults("probe")
	o.watchdog.Delay = time.Second
	var args []string
	for _, f := range o.sdkFlags(paths{}, "") {
		args = append(args, "--"+f.name+"="+f.value)
	}
	return append(args, "--distributed_denylist_duration=0")
}

// probeHostFlags runs the binary with the flags that the host passes.
func (o *options) probeHostFlags(ctx context.Context, b Binary) error {
	if len(o.flags) == 0 {
		return nil
	}
	var args []string
	for _, name := range sortedKeys(o.flags) {
		args = append(args, "--"+name+"="+o.flags[name])
	}
	v, err := o.probeFlags(ctx, b.Path, args)
	if err != nil {
		return &OptionError{Option: "WithBinary", Err: err}
	}
	var errs []error
	for _, name := range sortedKeys(o.flags) {
		if v.unknown[name] {
			errs = append(errs, optionErrorf("WithFlag", "%s is not a flag of osqueryd %s, which would refuse to start", name, b.Version))
		}
	}
	for _, text := range v.illegal {
		errs = append(errs, optionErrorf("WithFlag", "%s", text))
	}
	return errors.Join(errs...)
}
