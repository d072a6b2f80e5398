package extension

import (
	"context"
	"crypto"
	"log/slog"
	"time"

	"github.com/osqvisor/osqvisor/internal/guard"
	"github.com/osqvisor/osqvisor/internal/record"
	"github.com/osqvisor/osqvisor/stats"
)

// HostOptions applies the options that the host of an instance gives for its extension. Those
// that tie the extension to its owner, or that the owner has options of its own for, are mistakes
// then: taking no notice of them would be worse.
func HostOptions(opts ...Option) Option {
	return optionFunc(func(s *settings) {
		s.hosted = true
		defer func() { s.hosted = false }()
		for _, o := range opts {
			if o != nil {
				o.apply(s)
			}
		}
	})
}

// ownersOption is one that is no business of an instance's host; instead names the option of
// package instance that is, if there is one.
func ownersOption(name, instead string, f func(*settings)) Option {
	return optionFunc(func(s *settings) {
		switch {
		case !s.hosted:
			f(s)
		case instead == "":
			s.reject(name, "the instance sets it itself")
		default:
			s.reject(name, "the instance sets it itself; use instance.%s", instead)
		}
	})
}

// WithName names the extension and its config, logger and distributed plugin.
// The default is "osqvisor".
func WithName(name string) Option {
	return ownersOption("WithName", "", func(s *settings) { s.name = name })
}

// WithNode says who is asking; it is called before each call of the transport
// and must be quick and safe for concurrent use. The extension fills in Key.
// It is required.
func WithNode(f func() Node) Option {
	return ownersOption("WithNode", "", func(s *settings) { s.node = f })
}

// WithTransport sets how the instance reaches its server. Without one (or with
// nil) osqueryd gets an empty config, log lines are counted and discarded on
// purpose, and there are no distributed queries.
func WithTransport(t Transport) Option {
	return optionFunc(func(s *settings) { s.transport = t })
}

// WithDir sets the instance's directory, an absolute path. It is made with mode
// 0700 when it is not there, and holds queue/, config.json (the last good config)
// and node_key, all 0600. Two extensions must not share it. It is required.
func WithDir(dir string) Option {
	return ownersOption("WithDir", "WithDirectory", func(s *settings) { s.dir = dir })
}

// WithTables adds tables of the host. A panic in one fails that one query.
func WithTables(tables ...Table) Option {
	return ownersOption("WithTables", "WithTables", func(s *settings) { s.tables = tables })
}

// WithLogger sets where the extension logs. The default discards. Nothing secret is logged.
// A handler that panics or blocks holds up nobody.
func WithLogger(l *slog.Logger) Option {
	return optionFunc(func(s *settings) {
		if l == nil {
			s.reject("WithLogger", "nil; leave the option out to discard")
			return
		}
		s.logger, _ = guard.Logger(l)
	})
}

// WithEmit sets who is handed the extension's events. It is called without any
// lock held, from several goroutines, and never while osqueryd's logger waits. It
// should only pass the event on: it must not call Run, Flush, FetchConfig or Close.
func WithEmit(f func(stats.Event)) Option {
	return ownersOption("WithEmit", "WithObserver", func(s *settings) { s.emit = f })
}

// WithHead sets how the fields that all events share are made. The default takes
// them from the node and the clock.
func WithHead(f func() stats.Head) Option {
	return ownersOption("WithHead", "", func(s *settings) { s.head = f })
}

// WithCounters sets where lines, bytes, configs and distributed results are counted.
func WithCounters(c *record.Counters) Option {
	return ownersOption("WithCounters", "", func(s *settings) { s.counters = c })
}

// WithConfigTimeout bounds how long osqueryd waits for a config, which holds up
// its start. When it passes, the last good config is served, and what the source
// says later is handed to the [WithLateConfig] hook. The default is 10 s.
func WithConfigTimeout(d time.Duration) Option {
	return optionFunc(func(s *settings) { s.configTimeout = d; s.positive("WithConfigTimeout", d) })
}

// WithConfigLimit bounds each config source, in bytes without comments. The
// default is 1 MiB, which every supported osqueryd takes; newer ones take 4 MiB.
func WithConfigLimit(bytes int) Option {
	return optionFunc(func(s *settings) {
		s.configLimit = bytes
		if bytes < 2 || bytes > 4<<20 {
			s.reject("WithConfigLimit", "%d bytes; osqueryd takes at most 4194304, and \"{}\" needs 2", bytes)
		}
	})
}

// DefaultConfigProbation belongs to [WithConfigProbation]. osqueryd's watchdog looks at its
// worker after one minute, and the fastest decorators run once in one.
const DefaultConfigProbation = 2 * time.Minute

// WithConfigProbation sets how long osqueryd has to run with a new config before that is the
// last good one, which is kept on disk and covers a source that fails. Until then the one
// before stays that. A config that osqueryd died with twice within this time is set
// aside: it is announced as [stats.ConfigSetAside] and not served again, also after a restart of
// the host, unless its content changes; osqueryd gets the last good one, or none. The default is 2
// minutes, the longest a day. 0 takes every config for good at once, and sets none aside.
func WithConfigProbation(d time.Duration) Option {
	return optionFunc(func(s *settings) {
		s.probation = d
		if d < 0 || d > 24*time.Hour {
			s.reject("WithConfigProbation", "%v is not from 0 to 24h", d)
		}
	})
}

// WithConfigPolicy sets what may change or refuse a config.
func WithConfigPolicy(p ConfigPolicy) Option {
	return optionFunc(func(s *settings) { s.policy = p })
}

// WithOwnedOptions names osqueryd options that a config must not set, beside
// those that the extension always removes. See [OwnedOptions].
func WithOwnedOptions(names ...string) Option {
	return optionFunc(func(s *settings) { s.owned = append(s.owned, names...) })
}

// WithLateConfig sets a hook for a config that came after osqueryd had been
// answered with the last good one: push it, and then call
// [Extension.ConfigDelivered]. The hook is called from a goroutine of the
// extension, one call at a time, and may take as long as a push does.
func WithLateConfig(f func(config map[string]string)) Option {
	return ownersOption("WithLateConfig", "", func(s *settings) { s.lateConfig = f })
}

// WithOnActivated sets a hook that is called with "config", "logger" or
// "distributed" when osqueryd first asked for it after a registration. It is
// called while osqueryd waits and must be quick. Several hooks are called in order.
func WithOnActivated(f func(what string)) Option {
	return optionFunc(func(s *settings) {
		if f != nil {
			s.activated = append(s.activated, f)
		}
	})
}

// WithTransportTimeout bounds each call of the transport. A batch of logs that
// ran into it gets more time at its next try, up to eight times as much. The
// default is one minute.
func WithTransportTimeout(d time.Duration) Option {
	return optionFunc(func(s *settings) { s.transportTimeout = d; s.positive("WithTransportTimeout", d) })
}

// WithAnswerTimeout bounds how long osqueryd waits for its distributed queries,
// discovery queries included, and, when they cannot be kept on disk, until results
// are taken. It has to be shorter than osqueryd's thrift_timeout. The default is 30 s.
func WithAnswerTimeout(d time.Duration) Option {
	return optionFunc(func(s *settings) { s.answerTimeout = d; s.positive("WithAnswerTimeout", d) })
}

// WithTableTimeout bounds each call of a table of the host. One that does not
// return fails the query; at most 16 calls of a table are under way, those that do
// not return included. It has to be shorter than osqueryd's thrift_timeout. The
// default is 50 s.
func WithTableTimeout(d time.Duration) Option {
	return optionFunc(func(s *settings) { s.tableTimeout = d; s.positive("WithTableTimeout", d) })
}

// WithDrain bounds how long [Extension.Run] goes on delivering after its context
// ended. 0 delivers nothing more. The default is 5 s.
func WithDrain(d time.Duration) Option {
	return ownersOption("WithDrain", "WithTimeouts", func(s *settings) {
		s.drain = d
		if d < 0 {
			s.reject("WithDrain", "%v is negative; give 0 to deliver nothing more", d)
		}
	})
}

// WithSigner signs every batch of logs; see [Verify]. Ed25519, ECDSA and RSA
// keys are supported. The signer may be called from several goroutines.
func WithSigner(signer crypto.Signer) Option {
	return optionFunc(func(s *settings) {
		s.signer = signer
		if isNil(signer) {
			s.reject("WithSigner", "nil; leave the option out to send unsigned batches")
			return
		}
		if err := checkKey(signer); err != nil {
			s.reject("WithSigner", "%w", err)
		}
	})
}

// WithNodeKeyStore sets where the node key is kept. The default is the file
// node_key in the instance's directory, mode 0600, replaced atomically.
func WithNodeKeyStore(store NodeKeyStore) Option {
	return optionFunc(func(s *settings) {
		s.keys = store
		if isNil(store) {
			s.reject("WithNodeKeyStore", "nil; leave the option out for the file")
		}
	})
}

// WithHostDetails sets what an [EnrollRequest] tells of the host. It must return
// when its context ends; what it could not learn it leaves out.
func WithHostDetails(f func(context.Context) map[string]map[string]string) Option {
	return optionFunc(func(s *settings) { s.hostDetails = f })
}

// WithDiscovery sets how discovery queries are asked. osqueryd drops a whole
// batch in silence when one of its discovery queries fails; with this option the
// extension asks them itself, and a failure is the answer of that one query. f
// gives the number of rows, and must return when its context ends.
func WithDiscovery(f func(ctx context.Context, sql string) (rows int, err error)) Option {
	return optionFunc(func(s *settings) { s.discover = f })
}
