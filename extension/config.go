package extension

import (
	"context"
	"fmt"
	"time"

	"github.com/osqvisor/osqvisor/internal/osqueryflags"
)

// Config sets how an instance gets its config. A field that is zero stands for its default.
type Config struct {
	// Refresh is how often osqueryd fetches its config, in whole seconds, at most 7 days. The
	// default is 5 minutes; a negative value leaves it to PushConfig. A change of it needs a new
	// osqueryd.
	Refresh time.Duration
	// Timeout bounds how long osqueryd waits for a config, which holds up its start. When it
	// passes, osqueryd gets the last good config, and what the source answers later is pushed.
	// The default is 10 s. Raise it for a server that is slow with every config.
	Timeout time.Duration
	// Limit bounds each config source, in bytes without comments, from 2 bytes to 4 MiB. The default is
	// 1 MiB, which every supported osqueryd accepts; newer ones accept 4 MiB.
	Limit int
	// Probation is how long osqueryd has to run with a new config before that replaces the last
	// good one. A config that osqueryd died with twice within this time is set aside: announced by
	// [stats.ConfigSetAside] and not served again, after a restart of the host either, until its
	// content changes; osqueryd gets the last good one, or none. The default is 2 minutes, since
	// osqueryd's watchdog looks at its worker after one; the longest is a day. A negative value
	// accepts every config at once, and sets none aside.
	Probation time.Duration
	// Policy may change or refuse a config. The default is none.
	Policy ConfigPolicy
	// Owned names osqueryd options that a config must not set, beside those that are always
	// removed; see [OwnedOptions].
	Owned []string
}

// ConfigPolicy may change a config or refuse it, by an error or a panic, before osqueryd gets it;
// then the last good config stays in force. What it returns is parsed again. The config on disk
// goes through it at its first use after a start. It must return when its context ends, and must not
// call back into the instance; calls for one instance come one at a time.
type ConfigPolicy func(ctx context.Context, node Node, config map[string]string) (map[string]string, error)

// ConfigError is a mistake in a config, and where it is.
type ConfigError struct {
	// Source is the name of the source, Path the way to the value in it, such as
	// "schedule.logins.interval"; empty when it is the document as a whole.
	Source, Path string
	Reason       string
}

// Error returns source, path and reason.
func (e *ConfigError) Error() string {
	if e.Path == "" {
		return fmt.Sprintf("config source %q: %s", e.Source, e.Reason)
	}
	return fmt.Sprintf("config source %q: %s: %s", e.Source, e.Path, e.Reason)
}

// OwnedOptions returns the osqueryd options that the extension removes from every config, at
// its top level and in packs, those of "*" included, and announces as
// [stats.OptionStripped]: what the SDK sets, what only a host may, and what is for the command
// line alone. Aliases count, and so do the families "audit_", "aws_", "carver_", "config_tls_",
// "distributed_tls_", "enroll_", "logger_kafka_", "logger_tls_", "numeric_monitoring_",
// "tls_enroll_" and "watchdog_", of which a newer osqueryd may have more.
func OwnedOptions() []string {
	var names []string
	for _, f := range osqueryflags.All() {
		if f.Owner != osqueryflags.Anyone {
			names = append(append(names, f.Name), f.Aliases...)
		}
	}
	return names
}
