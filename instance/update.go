package instance

import (
	"context"
	"reflect"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/internal/control"
	"github.com/osqvisor/osqvisor/internal/plugin"
)

// setting is an option as an update compares it. A new option gets its line in settings.
type setting struct {
	name  string
	value func(o *options) any
	live  func(old, next *options) bool // whether it is changed without a new osqueryd; nil: never
}

func always(_, _ *options) bool { return true }

// settings are all options that a host can set.
func settings() []setting {
	return []setting{
		{"WithBinary", func(o *options) any { return o.binary }, nil},
		{"WithRoot", func(o *options) any { return o.root }, nil},
		{"WithDirectory", func(o *options) any { return o.dir }, nil},
		{"WithSocket", func(o *options) any { return o.socket }, nil},
		{"WithTransport", func(o *options) any { return []any{o.transport} }, sameKind},
		{"WithTables", func(o *options) any { return o.tables }, always},
		{"WithConfig", func(o *options) any { return o.settled().Config }, nil},
		{"WithLogs", func(o *options) any { return o.settled().Logs }, liveLogs},
		{"WithDistributed", func(o *options) any { return o.settled().Distributed }, nil},
		{"WithEnrolment", func(o *options) any { return o.enrolment }, nil},
		{"WithNodeKeyStore", func(o *options) any { return []any{o.keys} }, nil},
		{"WithFlag", func(o *options) any { return o.flags }, nil},
		{"WithEnv", func(o *options) any { return o.env }, nil},
		{"WithWatchdog", func(o *options) any { return o.watchdog }, nil},
		{"WithLabels", func(o *options) any { return o.labels }, always},
		{"WithHostIdentifier", func(o *options) any { return o.hostID }, nil},
		{"WithTimeouts", func(o *options) any { return o.timeouts.settled() }, func(old, next *options) bool {
			return old.timeouts.Extensions == next.timeouts.Extensions // which is a flag of osqueryd's
		}},
		{"WithHealth", func(o *options) any { return o.health.settled() }, always},
		{"WithQueries", func(o *options) any { return o.queries.settled() }, always},
		{"WithDiagnostics", func(o *options) any { return o.diagnostics }, always},
		{"WithLogger", func(o *options) any { return o.hostLogger }, always},
		{"WithObserver", func(o *options) any { return o.observers }, always},
	}
}

// settled returns the extension's settings with their defaults, to be compared.
func (o *options) settled() plugin.Settings {
	s := plugin.Settings{Config: o.config, Logs: o.logs, Distributed: o.distributed}.Defaults()
	s.Config.Refresh, s.Distributed.Interval = o.configRefresh(), o.distributedInterval()
	return s
}

// off makes one value of all that switch off.
func off(d time.Duration) time.Duration { return max(d, -1) }

func (t Timeouts) settled() Timeouts {
	t.Stop = off(t.Stop)
	return t
}

func (h Health) settled() Health {
	h.Delay = off(h.Delay)
	return h
}

func (q Queries) settled() Queries {
	q.AbandonedWait = off(q.AbandonedWait)
	return q
}

// liveLogs reports whether the settings of logs differ only in what neither an open queue nor
// osqueryd depends on; see plugin.Extension.SetLogs.
func liveLogs(old, next *options) bool {
	a, b := old.settled().Logs, next.settled().Logs
	return a.QueueBytes == b.QueueBytes && a.LineLimit == b.LineLimit && a.WhenFull == b.WhenFull &&
		a.Sync == b.Sync && a.RawEvents == b.RawEvents
}

// Changes returns what differs from an older plan.
func (p plan) Changes(old control.Plan) []control.Change {
	before, ok := old.(plan)
	if !ok {
		return []control.Change{{Option: "all", Restart: true}}
	}
	var changes []control.Change
	for _, s := range settings() {
		if !same(s.value(before.o), s.value(p.o)) {
			changes = append(changes, control.Change{Option: s.name, Restart: s.live == nil || !s.live(before.o, p.o)})
		}
	}
	return changes
}

func (p plan) Wrong() bool { return len(p.o.problems) > 0 }

// same reports whether two values of an option are equal. Pointers, channels and functions are
// compared by identity; what cannot be compared counts as different.
func same(a, b any) bool { return sameValue(reflect.ValueOf(&a).Elem(), reflect.ValueOf(&b).Elem()) }

func sameValue(a, b reflect.Value) bool {
	switch a.Kind() {
	case reflect.Interface:
		if a.IsNil() || b.IsNil() {
			return a.IsNil() == b.IsNil()
		}
		return sameDynamic(a.Elem(), b.Elem())
	case reflect.Func:
		return a.IsNil() && b.IsNil() || a.CanAddr() && b.CanAddr() && closure(a) == closure(b)
	case reflect.Slice:
		return sameElements(a, b)
	case reflect.Map:
		return sameMap(a, b)
	case reflect.Struct:
		return sameFields(a, b)
	default:
		return a.Comparable() && b.Comparable() && a.Equal(b)
	}
}

func sameMap(a, b reflect.Value) bool {
	if a.Len() != b.Len() {
		return false
	}
	for _, k := range a.MapKeys() {
		if v := b.MapIndex(k); !v.IsValid() || !sameDynamic(a.MapIndex(k), v) {
			return false
		}
	}
	return true
}

func sameFields(a, b reflect.Value) bool {
	for i := range a.NumField() {
		if !sameValue(a.Field(i), b.Field(i)) {
			return false
		}
	}
	return true
}

func sameElements(a, b reflect.Value) bool {
	if a.Len() != b.Len() {
		return false
	}
	for i := range a.Len() {
		if !sameValue(a.Index(i), b.Index(i)) {
			return false
		}
	}
	return true
}

// sameDynamic compares values that have no address of their own.
func sameDynamic(a, b reflect.Value) bool {
	if a.Type() != b.Type() {
		return false
	}
	if !a.CanInterface() { // of an unexported field of the host's
		return a.Comparable() && b.Comparable() && a.Equal(b)
	}
	return sameValue(addressable(a), addressable(b))
}

func addressable(v reflect.Value) reflect.Value {
	c := reflect.New(v.Type()).Elem()
	c.Set(v)
	return c
}

// closure is the identity of a function value, which its code alone is not.
func closure(f reflect.Value) unsafe.Pointer {
	return *(*unsafe.Pointer)(unsafe.Pointer(f.UnsafeAddr())) //nolint:gosec // read only; a func is one pointer
}

// apply changes what can be changed without a new osqueryd, in a run or between runs. Of the
// tables it takes no notice unless they are wanted.
func (in *Instance) apply(ctx context.Context, next *options, tables bool) error {
	old := in.live.Load()
	if !same(old.logs, next.logs) {
		if err := in.ext.SetLogs(next.logs); err != nil {
			return err
		}
	}
	if tables && !same(old.tables, next.tables) {
		if err := in.SetTables(ctx, next.tables...); err != nil {
			return err
		}
	}
	in.live.Store(next)
	in.transport.set(next.transport)
	in.emitter.SetObservers(next.observers...)
	in.rec.SetHistory(next.diagnostics.history())
	in.logs.Set(next.logger)
	in.queries.SetDrainGrace(max(0, next.queries.AbandonedWait))
	return nil
}

// sharedTransport is a transport that can be exchanged. It has the optional methods of the
// first one, as the extension looks at them; others of the same kind take its place.
type sharedTransport struct {
	current atomic.Pointer[extension.Transport]
}

func (t *sharedTransport) set(next extension.Transport) {
	if next != nil {
		t.current.Store(&next)
	}
}

func (t *sharedTransport) get() extension.Transport { return *t.current.Load() }

// as returns what the extension calls.
func (t *sharedTransport) as() extension.Transport {
	_, enrolls := t.get().(extension.Enroller)
	_, packs := t.get().(extension.PackSource)
	plain, enroller, source := plainTransport{t}, enrollTransport{t}, packTransport{t}
	switch {
	case enrolls && packs:
		return struct {
			plainTransport
			enrollTransport
			packTransport
		}{plain, enroller, source}
	case enrolls:
		return struct {
			plainTransport
			enrollTransport
		}{plain, enroller}
	case packs:
		return struct {
			plainTransport
			packTransport
		}{plain, source}
	}
	return plain
}

// sameKind reports whether two transports have the same optional methods, or there is none.
func sameKind(old, next *options) bool {
	_, enrolledBefore := old.transport.(extension.Enroller)
	_, enrolls := next.transport.(extension.Enroller)
	_, packsBefore := old.transport.(extension.PackSource)
	_, packs := next.transport.(extension.PackSource)
	return old.transport != nil && next.transport != nil && enrolls == enrolledBefore && packs == packsBefore
}

type (
	plainTransport  struct{ t *sharedTransport }
	enrollTransport struct{ t *sharedTransport }
	packTransport   struct{ t *sharedTransport }
)

func (p plainTransport) Config(ctx context.Context, n extension.Node) (map[string]string, error) {
	return p.t.get().Config(ctx, n)
}

func (p plainTransport) PublishLogs(ctx context.Context, n extension.Node, b extension.Batch) error {
	return p.t.get().PublishLogs(ctx, n, b)
}

func (p plainTransport) Queries(ctx context.Context, n extension.Node) (extension.QuerySet, error) {
	return p.t.get().Queries(ctx, n)
}

func (p plainTransport) WriteResults(ctx context.Context, n extension.Node, r []extension.Result) error {
	return p.t.get().WriteResults(ctx, n, r)
}

func (p enrollTransport) Enroll(ctx context.Context, req extension.EnrollRequest) (string, error) {
	e, ok := p.t.get().(extension.Enroller)
	if !ok {
		return "", extension.ErrUnsupported
	}
	return e.Enroll(ctx, req)
}

func (p packTransport) Pack(ctx context.Context, n extension.Node, name, value string) (string, error) {
	s, ok := p.t.get().(extension.PackSource)
	if !ok {
		return "", extension.ErrUnsupported
	}
	return s.Pack(ctx, n, name, value)
}
