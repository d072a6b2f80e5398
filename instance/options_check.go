package instance

import (
	"strings"
	"time"
)

// day is the longest that any single wait may be set to: more is a mistake in units.
const day = 24 * time.Hour

type durationRule struct {
	option   string
	value    time.Duration
	min, max time.Duration
	seconds  bool // osqueryd takes whole seconds only
}

// durationRules bound every duration among the options but those of the watchdog.
func (o *options) durationRules() []durationRule {
	return []durationRule{
		{"WithDistributed", o.distributed, 0, day, true},
		{"WithConfigRefresh", o.configRefresh, 0, 7 * day, true},
		{"WithExtensionsTimeout", o.extensionsTimeout, time.Second, time.Hour, true},
		{"WithStartTimeout", o.startTimeout, time.Millisecond, day, false},
		{"WithReplaceTimeout", o.replaceTimeout, time.Millisecond, day, false},
		{"WithRegisterTimeout", o.registerTimeout, time.Millisecond, time.Hour, false},
		{"WithStopGrace", o.stopGrace, 0, time.Hour, false},
		{"WithKillTimeout", o.killTimeout, time.Millisecond, time.Hour, false},
		{"WithDrain", o.drain, 0, time.Hour, false},
		{"WithBinaryTimeout", o.binaryTimeout, time.Millisecond, time.Hour, false},
		{"WithDiskTimeout", o.diskTimeout, time.Millisecond, time.Hour, false},
		{"WithHealth: interval", o.healthInterval, time.Millisecond, day, false},
		{"WithHealth: timeout", o.healthTimeout, time.Millisecond, time.Hour, false},
		{"WithHealthDelay", valueOf(o.healthDelay), 0, day, false},
		{"WithQueryTimeout", o.queryTimeout, time.Millisecond, day, false},
		{"WithObserverTimeout", o.observerTimeout, time.Millisecond, time.Hour, false},
		{"WithAbandonedQueryWait", o.abandonedQueryWait, 0, time.Hour, false},
	}
}

// valueOf gives 0 for what was not set.
func valueOf(d *time.Duration) time.Duration {
	if d == nil {
		return 0
	}
	return *d
}

func (o *options) checkDurations() []error {
	var errs []error
	for _, r := range o.durationRules() {
		switch {
		case r.value < r.min || r.value > r.max:
			errs = append(errs, optionErrorf(r.option, "%v is out of range; it must be from %v to %v", r.value, r.min, r.max))
		case r.seconds && r.value%time.Second != 0:
			errs = append(errs, optionErrorf(r.option, "%v is not a whole number of seconds, which is all osqueryd takes", r.value))
		}
	}
	return errs
}

func (o *options) checkCounts() []error {
	var errs []error
	if o.healthFailures < 1 || o.healthFailures > 1000 {
		errs = append(errs, optionErrorf("WithHealth: failures", "%d is out of range; it must be from 1 to 1000", o.healthFailures))
	}
	if o.stderrLines < 1 || o.stderrLines > 1000 {
		errs = append(errs, optionErrorf("WithStderrTail", "%d is out of range; it must be from 1 to 1000", o.stderrLines))
	}
	if o.history < 0 || o.history > 1000 {
		errs = append(errs, optionErrorf("WithHistory", "%d is out of range; it must be from 0 to 1000", o.history))
	}
	return errs
}

func (o *options) checkEnv() []error {
	var errs []error
	for _, kv := range o.env {
		name, _, ok := strings.Cut(kv, "=")
		switch {
		case !ok || name == "" || strings.ContainsRune(kv, 0):
			errs = append(errs, optionErrorf("WithEnv", "%q is not of the form NAME=value", kv))
		case strings.HasPrefix(strings.ToUpper(name), "OSQUERY_"):
			errs = append(errs, optionErrorf("WithEnv",
				"%s: variables that begin with OSQUERY_ change what osqueryd is, and are not passed on", name))
		}
	}
	return errs
}
