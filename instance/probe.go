package instance

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"time"
)

// probeFlag is one that no osqueryd has. Passing it makes gflags report every
// unknown flag and every illegal value and exit, before anything is started.
const probeFlag = "osqvisor_probe"

var (
	unknownFlagPattern  = regexp.MustCompile(`unknown command line flag '([^']*)'`)
	illegalValuePattern = regexp.MustCompile(`ERROR: (illegal value .* specified for .* flag '([^']*)'|.*failed validation of new value .* for flag '([^']*)')`)
)

// flagVerdict is what an osqueryd said of a command line.
type flagVerdict struct {
	unknown map[string]bool
	illegal []string
}

// probeFlags asks the binary what it thinks of args. Whoever does not answer in
// gflags' words has no objection.
func (o *options) probeFlags(ctx context.Context, path string, args []string) (flagVerdict, error) {
	args = append(append([]string{"--flagfile="}, args...), "--"+probeFlag)
	out, err := o.checks.run(ctx, probe{
		path: path, args: args, env: o.env, both: true, refuses: true, timeout: o.binaryTimeout,
	})
	v := flagVerdict{unknown: map[string]bool{}}
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

// askFlags asks the binary about the flags that the host passes.
func (o *options) askFlags(ctx context.Context, b Binary) error {
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
	for _, said := range v.illegal {
		errs = append(errs, optionErrorf("WithFlag", "%s", said))
	}
	return errors.Join(errs...)
}
