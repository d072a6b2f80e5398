package plugin

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"reflect"
	"sync/atomic"
	"time"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/internal/delivery"
	"github.com/osqvisor/osqvisor/internal/guard"
	"github.com/osqvisor/osqvisor/internal/record"
	"github.com/osqvisor/osqvisor/stats"
)

// Settings is what an [Extension] is made of: what its owner sets, and the public settings of the
// host, whose fields stand for their defaults when they are zero.
type Settings struct {
	// Name is that of the extension and of its config, logger and distributed plugin. The default
	// is "osqvisor".
	Name string
	// Node names the instance that calls; it is called before each call of the transport and
	// must be quick and safe for concurrent use. The extension fills in Key. It is required.
	Node func() extension.Node
	// Transport is how the instance reaches its server. Without one osqueryd gets an empty config,
	// log lines are counted and discarded on purpose, and there are no distributed queries.
	Transport extension.Transport
	// Dir is the instance's directory, an absolute path. It is made with mode 0700 when it is not
	// there, and holds queue/, config.json (the last good config) and node_key, all 0600. Two
	// extensions must not share it. It is required.
	Dir    string
	Tables []extension.Table
	// Logger may panic or block; the default discards.
	Logger *slog.Logger
	// Emit gets the extension's events. It is called without any lock held, from several
	// goroutines, and never while osqueryd's logger waits. It should only pass the event on: it
	// must not call Run, Flush, FetchConfig or Close.
	Emit func(stats.Event)
	// Head makes the fields that all events share. The default uses the node and the clock.
	Head     func() stats.Head
	Counters *record.Counters

	Config      extension.Config
	Logs        extension.Logs
	Distributed extension.Distributed
	Enrolment   extension.Enrolment
	// Keys keeps the node key; the default is the file node_key in Dir.
	Keys extension.NodeKeyStore
	// Pace limits the enrolments of all extensions that share it; the default is one of
	// Enrolment.PerMinute.
	Pace *EnrollPace
	// Budget bounds the queues of all extensions that share it; without it only their own limits do.
	Budget *delivery.Budget

	// TableTimeout bounds each call of a table of the host. One that does not return fails the
	// query; at most 16 calls of a table are under way, those that do not return included. It has to
	// be shorter than osqueryd's thrift_timeout. The default is 50 s.
	TableTimeout time.Duration
	// Drain bounds how long [Extension.Run] goes on delivering after its context ended.
	Drain time.Duration
	// DeferredQueues makes New open no queue: whoever owns the extension calls
	// [Extension.OpenQueues] before Run and CloseQueues after it, and so decides when the
	// instance's directory is in use. Two extensions for one directory can then exist, as long as
	// they take turns, which the owner has to see to: a queue has no files, and keeps nobody out,
	// before its first line.
	DeferredQueues bool
	// LateConfig is called with a config that came after osqueryd had been answered with the last
	// good one: push it, and then call [Extension.ConfigDelivered]. It is called from a goroutine
	// of the extension, one call at a time, and may take as long as a push does.
	LateConfig func(config map[string]string)
	// Activated is called with "config", "logger" or "distributed" when osqueryd first called it
	// after a registration. It is called while osqueryd waits and must be quick.
	Activated func(what string)
	// HostDetails returns the details of the host for an [EnrollRequest]. It must return when its
	// context ends, without what it could not learn.
	HostDetails func(context.Context) map[string]map[string]string
	// Discover runs a discovery query and returns the number of rows. osqueryd drops a whole batch
	// in silence when one of its discovery queries fails; with this hook the extension runs them
	// itself, and a failure is the answer of that one query. It must return when its context ends.
	Discover func(ctx context.Context, sql string) (rows int, err error)

	silent bool                            // there is no transport
	logs   *atomic.Pointer[extension.Logs] // Logs as Extension.SetLogs last set them
}

// SettingError is what is wrong with one of the Settings.
type SettingError struct {
	Option string // the option of package instance, with the field
	Err    error
}

func (e *SettingError) Error() string { return e.Option + ": " + e.Err.Error() }

// Unwrap returns the reason.
func (e *SettingError) Unwrap() error { return e.Err }

// Check returns every mistake in the settings, each a *[SettingError]. It changes nothing.
func (s Settings) Check() []error {
	_, errs := s.complete()
	return errs
}

// mistakes collects what is wrong with Settings.
type mistakes []error

func (m *mistakes) add(option, format string, args ...any) {
	*m = append(*m, &SettingError{option, fmt.Errorf(format, args...)})
}

// wait checks a wait, for which 0 stands for the default.
func (m *mistakes) wait(option string, d *time.Duration, byDefault time.Duration) {
	if *d < 0 {
		m.add(option, "%v is negative; set 0 for the default of %v", *d, byDefault)
	}
	setDefault(d, byDefault)
}

// setDefault sets what is zero.
func setDefault[T comparable](v *T, byDefault T) {
	if *v == *new(T) {
		*v = byDefault
	}
}

// orOff is setDefault for a setting that a negative value switches off.
func orOff[T int64 | time.Duration](v *T, byDefault T) {
	switch {
	case *v == 0:
		*v = byDefault
	case *v < 0:
		*v = 0
	}
}

// complete returns the settings with every default filled in and what is off set to 0.
func (s Settings) complete() (*Settings, []error) {
	var m mistakes
	s.completeOwn(&m)
	s.completeConfig(&m)
	s.completeLogs(&m)
	s.checkSigner(&m)
	s.completeDelivery(&m)
	s.logs = &atomic.Pointer[extension.Logs]{}
	s.logs.Store(&s.Logs)
	s.completeDistributed(&m)
	if d := s.Enrolment.Interval; d != 0 && (d < time.Second || d > time.Hour) {
		m.add("WithEnrolment: Interval", "%v is not between 1s and 1h", d)
	}
	setDefault(&s.Enrolment.Interval, time.Minute)
	if s.Enrolment.PerMinute < 0 {
		m.add("WithEnrolment: PerMinute", "%d is negative; set 0 for the default", s.Enrolment.PerMinute)
	}
	if s.Enrolment.PerMinute > 0 || s.Pace == nil {
		setDefault(&s.Enrolment.PerMinute, DefaultEnrollRate)
		s.Pace = NewEnrollPace(s.Enrolment.PerMinute)
	}
	for _, err := range checkTables(s.Tables) {
		m.add("WithTables", "%w", err)
	}
	return &s, m
}

// completeOwn is about what the owner sets.
func (s *Settings) completeOwn(m *mistakes) {
	if s.Node == nil {
		m.add("Node", "missing; the transport has to know which instance is asking")
	}
	if s.Dir == "" {
		m.add("WithDirectory", "missing; queues, the last good config and the node key need a directory")
	} else if !filepath.IsAbs(s.Dir) {
		m.add("WithDirectory", "%q is relative; use an absolute path", s.Dir)
	}
	setDefault(&s.Name, "osqvisor")
	if !validName(s.Name) {
		m.add("Name", "%q is not a plugin name; use 1 to 64 letters, digits, '_', '-' or '.'", s.Name)
	}
	m.wait("TableTimeout", &s.TableTimeout, 50*time.Second)
	s.silent = isNil(s.Transport)
	if s.silent {
		s.Transport = extension.Funcs{}
	}
	if s.Logger == nil {
		s.Logger = slog.New(slog.DiscardHandler)
	}
	s.Logger, _ = guard.Logger(s.Logger)
	if s.Emit == nil {
		s.Emit = func(stats.Event) {}
	}
	if s.Head == nil {
		s.Head = headFrom(s.Node)
	}
	if s.Counters == nil {
		s.Counters = &record.Counters{}
	}
	switch {
	case s.Keys == nil:
		s.Keys = newFileKeyStore(s.Dir)
	case isNil(s.Keys):
		m.add("WithNodeKeyStore", "nil; leave the option out for the file")
	}
}

func (s *Settings) completeConfig(m *mistakes) {
	c := &s.Config
	m.wait("WithConfig: Timeout", &c.Timeout, 10*time.Second)
	if c.Limit != 0 && (c.Limit < 2 || c.Limit > 4<<20) {
		m.add("WithConfig: Limit", "%d bytes; osqueryd accepts at most 4194304, and \"{}\" needs 2", c.Limit)
	}
	setDefault(&c.Limit, 1<<20)
	if c.Probation > 24*time.Hour {
		m.add("WithConfig: Probation", "%v is more than 24h", c.Probation)
	}
	orOff(&c.Probation, 2*time.Minute)
}

func (s *Settings) completeLogs(m *mistakes) {
	l := &s.Logs
	if l.BatchLines < 0 {
		m.add("WithLogs: BatchLines", "%d; a batch holds at least 1", l.BatchLines)
	}
	setDefault(&l.BatchLines, 1000)
	if l.BatchBytes < 0 {
		m.add("WithLogs: BatchBytes", "%d; a batch holds at least 1", l.BatchBytes)
	}
	setDefault(&l.BatchBytes, 1<<20)
	orOff(&l.BatchAge, 2*time.Second)
	if l.QueueBytes != 0 && l.QueueBytes < 1<<20 {
		m.add("WithLogs: QueueBytes", "%d; a queue needs at least 1048576", l.QueueBytes)
	}
	setDefault(&l.QueueBytes, 64<<20)
	s.completeLineLimit(m)
	if l.WhenFull != extension.DropOldest && l.WhenFull != extension.RefuseNewest {
		m.add("WithLogs: WhenFull", "%d is neither DropOldest nor RefuseNewest", l.WhenFull)
	}
	orOff(&l.DeadLetterBytes, 4<<20)
	if l.BackfillRate < 0 {
		m.add("WithLogs: BackfillRate", "%d bytes a second; set 0 for no bound", l.BackfillRate)
	}
	setDefault(&l.Sync, time.Second)
}

// checkSigner calls the host's code.
func (s *Settings) checkSigner(m *mistakes) {
	l := &s.Logs
	switch {
	case l.Signer == nil:
	case isNil(l.Signer):
		m.add("WithLogs: Signer", "nil; leave it out to send unsigned batches")
	default:
		if err := delivery.CheckKey(l.Signer); err != nil {
			m.add("WithLogs: Signer", "%w", err)
		}
	}
}

func (s *Settings) completeDistributed(m *mistakes) {
	m.wait("WithDistributed: AnswerTimeout", &s.Distributed.AnswerTimeout, 30*time.Second)
}

// Defaults returns the settings with the defaults of Config, Logs and Distributed filled in, and 0
// for what is off: two that mean the same become equal. It is for comparison only: it checks
// nothing, and New would take a 0 for the default again.
func (s Settings) Defaults() Settings {
	var m mistakes
	s.completeConfig(&m)
	s.completeLogs(&m)
	s.completeDelivery(&m)
	s.completeDistributed(&m)
	return s
}

// delivery returns how calls are bounded and repeated now.
func (s *Settings) delivery() extension.Delivery { return s.logs.Load().Delivery }

func (s *Settings) completeLineLimit(m *mistakes) {
	l := &s.Logs
	switch {
	case l.LineLimit == 0:
		l.LineLimit = int(min(8<<20, l.QueueBytes/4))
	case l.LineLimit < 0:
		m.add("WithLogs: LineLimit", "%d bytes; no line would fit", l.LineLimit)
	case int64(l.LineLimit)+delivery.LineRoom > l.QueueBytes/2:
		m.add("WithLogs: LineLimit", "%d bytes; a queue of %d bytes holds lines of at most %d", l.LineLimit, l.QueueBytes,
			l.QueueBytes/2-delivery.LineRoom)
	case l.LineLimit > 64<<20:
		m.add("WithLogs: LineLimit", "%d bytes; a queue holds lines of at most 67108864", l.LineLimit)
	}
}

func (s *Settings) completeDelivery(m *mistakes) {
	d := &s.Logs.Delivery
	m.wait("WithLogs: Delivery.Timeout", &d.Timeout, time.Minute)
	m.wait("WithLogs: Delivery.FirstWait", &d.FirstWait, time.Second)
	m.wait("WithLogs: Delivery.LongestWait", &d.LongestWait, max(5*time.Minute, d.FirstWait))
	if d.FirstWait > 0 && d.LongestWait > 0 && d.LongestWait < d.FirstWait {
		m.add("WithLogs: Delivery.LongestWait", "%v is shorter than the first wait, %v", d.LongestWait, d.FirstWait)
	}
	if d.MaxAttempts < 0 || d.MaxAttempts == 1 {
		m.add("WithLogs: Delivery.MaxAttempts", "%d; set 2 or more, or 0 for the default", d.MaxAttempts)
	}
	setDefault(&d.MaxAttempts, 10)
	m.wait("WithLogs: Delivery.MaxAge", &d.MaxAge, 10*time.Minute)
	if d.ResultMaxAge < 0 || d.ResultMaxAge > 0 && d.ResultMaxAge < time.Second {
		m.add("WithLogs: Delivery.ResultMaxAge", "%v; set a second or more, or 0 for the default", d.ResultMaxAge)
	}
	setDefault(&d.ResultMaxAge, 24*time.Hour)
}

func headFrom(node func() extension.Node) func() stats.Head {
	return func() stats.Head {
		n := node()
		return stats.Head{Time: time.Now(), Instance: n.Instance, Run: n.Run}
	}
}

// callNode calls the host's function; a panic in it is an error.
func (s *Settings) callNode() (n extension.Node, err error) {
	err = guard.Contain("node", func() error {
		n = s.Node()
		return nil
	})
	return n, err
}

// isNil reports whether v is nil or holds a nil pointer, map or function.
func isNil(v any) bool {
	if v == nil {
		return true
	}
	switch r := reflect.ValueOf(v); r.Kind() {
	case reflect.Pointer, reflect.Map, reflect.Func, reflect.Slice, reflect.Chan, reflect.Interface:
		return r.IsNil()
	default:
		return false
	}
}

func validName(s string) bool {
	if s == "" || len(s) > 64 {
		return false
	}
	for _, r := range s {
		ok := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' || r == '-' || r == '.'
		if !ok {
			return false
		}
	}
	return true
}
