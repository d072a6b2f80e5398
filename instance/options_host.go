package instance

import (
	"log/slog"
	"time"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/internal/guard"
	"github.com/osqvisor/osqvisor/stats"
)

// WithBinary names the osqueryd to run, by absolute path. It is required, unless
// WithCheckedBinary is given.
func WithBinary(path string) Option {
	return func(o *options) { o.binary, o.checked = path, nil }
}

// WithCheckedBinary names an osqueryd that [CheckBinary] has seen, so that many
// instances pay for the check once. Should the file change, it is checked again
// at the next run.
func WithCheckedBinary(b Binary) Option {
	return func(o *options) { o.binary, o.checked = b.Path, &b }
}

// WithRoot names the directory below which the instance has a directory of its
// own, named by its id. It must be absolute; it is made, 0700, if it is not there.
// Either WithRoot or WithDirectory is required.
func WithRoot(dir string) Option { return func(o *options) { o.root = dir } }

// WithDirectory names the instance's own directory, and wins over WithRoot. It must be
// absolute; it is made, 0700, if it is not there. No two instances may share one.
func WithDirectory(dir string) Option { return func(o *options) { o.dir = dir } }

// WithSocket fixes the path of osqueryd's extension socket, or on Windows the
// name of its pipe. Without it a short one is chosen. At most 97 bytes (a pipe's 240), in a
// directory that only this user can enter.
func WithSocket(path string) Option { return func(o *options) { o.socket = path } }

// WithTransport says how the instance reaches its server. One transport may
// serve many instances. Without it the config is empty, logs are counted and
// discarded, and no distributed queries run.
func WithTransport(t extension.Transport) Option {
	return func(o *options) {
		if t == nil {
			o.problem(optionErrorf("WithTransport", "the transport is nil; leave the option out to run without one"))
			return
		}
		o.transport = t
	}
}

// WithTables adds tables of the host's own; those of osquery-go's plugin/table
// will do. Each call adds to the ones before.
func WithTables(tables ...extension.Table) Option {
	return func(o *options) { o.tables = append(o.tables, tables...) }
}

// WithExtension passes options to the instance's extension: batch sizes, queue
// limits, config policy and so on. Each call adds to the ones before. What ties it to the
// instance is a mistake here: its name, directory, node, events, counters and tables, and how long it
// delivers at the end, which WithDrain bounds.
func WithExtension(opts ...extension.Option) Option {
	return func(o *options) { o.extOpts = append(o.extOpts, opts...) }
}

// WithDiskBudget makes the instance's queues part of a budget that instances share. A
// Runner sets its own.
func WithDiskBudget(d *extension.DiskBudget) Option { return func(o *options) { o.disk = d } }

// WithEnrollPace limits the enrolments of all instances that are given the same pace. A
// runtime.Runner sets its own; extension.WithEnrolment, by [WithExtension], overrides it.
func WithEnrollPace(p *extension.EnrollPace) Option { return func(o *options) { o.pace = p } }

// WithFlag passes a flag to osqueryd. The name comes without dashes. Flags that
// the SDK sets itself are refused, as are flags that the binary does not know. A config
// cannot change a flag that was set so.
func WithFlag(name, value string) Option {
	return func(o *options) { o.flags[name] = value }
}

// WithEnv adds variables, as "NAME=value", to osqueryd's environment, which is
// the host's without OSQUERY_*, in checks of the binary too. Each call adds to the ones before.
func WithEnv(vars ...string) Option {
	return func(o *options) { o.env = append(o.env, vars...) }
}

// WithLabels gives the instance words of the host's own, which every transport
// call bears. Each call adds to the ones before.
func WithLabels(labels map[string]string) Option {
	return func(o *options) {
		for k, v := range labels {
			o.labels[k] = v
		}
	}
}

// WithHostIdentifier sets what osqueryd calls this node in its logs, and what the node is
// enrolled as. Servers know nodes by it: it must be another one on each host and for each
// instance. Without it osqueryd uses its instance_id, which it makes with its database and
// keeps in there. When the name changes, the instance enrols again.
func WithHostIdentifier(id string) Option { return func(o *options) { o.hostID = id } }

// WithDistributed sets how often osqueryd asks for distributed queries; 0 turns
// them off. The default is 60 s. Whole seconds.
func WithDistributed(interval time.Duration) Option {
	return func(o *options) { o.distributed = interval }
}

// WithConfigRefresh sets how often osqueryd asks for its config; 0 leaves it to
// PushConfig. The default is 5 minutes. Whole seconds.
func WithConfigRefresh(interval time.Duration) Option {
	return func(o *options) { o.configRefresh = interval }
}

// WithStderrTail sets how many of osqueryd's last lines an ExitError bears, from
// 1 to 1000. Default 40.
func WithStderrTail(lines int) Option { return func(o *options) { o.stderrLines = lines } }

// WithHistory sets how many ended runs a snapshot holds, from 0 to 1000. Default 16. A later
// one, as with an Update, keeps the newest of those that are there.
func WithHistory(runs int) Option { return func(o *options) { o.history = runs } }

// WithLogger sets where the instance, and osqueryd's own words, are logged. Without it
// nothing is. A handler that panics or blocks holds up nobody: after a tenth of a second
// up to 1024 records wait for it, and those that are lost are counted in the log.
func WithLogger(l *slog.Logger) Option {
	return func(o *options) {
		if l == nil {
			o.problem(optionErrorf("WithLogger", "the logger is nil; leave the option out to discard the log"))
			return
		}
		o.logger, o.ownLog = guard.Logger(l)
	}
}

// WithObserver sets who is handed the instance's events. Each call adds one.
func WithObserver(obs stats.Observer) Option {
	return func(o *options) {
		if obs == nil {
			o.problem(optionErrorf("WithObserver", "the observer is nil"))
			return
		}
		o.observers = append(o.observers, obs)
	}
}

// WithPredecessor takes over the snapshot, the history and the counters of an
// earlier instance of the same id. If that had another directory, the lines in its queues are brought along to this one
// before the first run; those that cannot be are announced by a stats.QueueLeft and stay.
func WithPredecessor(old *Instance) Option { return func(o *options) { o.predecessor = old } }

// WithGate bounds how many instances start at once. A Runner sets its own.
func WithGate(g Gate) Option { return func(o *options) { o.gate = g } }
