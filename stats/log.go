package stats

import (
	"context"
	"log/slog"
	"reflect"
	"strings"
	"unicode"
)

// LogTo makes an Observer that writes one record an event: the message is the
// event's kind, the time the event's, and the attributes are "instance", "run"
// and the event's own fields in snake case ("in_a_row"; an Err is "error").
// Empty texts, lists and errors are left out.
//
// The level is Error for a parked instance, a run that ended unasked and a
// panic; Warn for other trouble; Debug for routine (logs shipped, configs served
// and pushed); Info for the rest. Nothing is allocated for a level that the
// logger does not take. A nil logger discards. It is safe for concurrent use. A handler that
// panics or blocks is contained as every observer of an instance is.
func LogTo(l *slog.Logger) Observer {
	if l == nil {
		l = slog.New(slog.DiscardHandler)
	}
	return logObserver{l.Handler()}
}

type logObserver struct{ to slog.Handler }

// Observe writes the record by the handler itself, because a Logger would stamp
// it with the time of writing. What the handler answers is not for us to judge.
func (o logObserver) Observe(ctx context.Context, e Event) {
	if e == nil {
		return
	}
	level := levelOf(e)
	if !o.to.Enabled(ctx, level) {
		return
	}
	h := e.Meta()
	rec := slog.NewRecord(h.Time, level, e.Kind(), 0)
	rec.AddAttrs(slog.String("instance", h.Instance))
	if h.Run != "" {
		rec.AddAttrs(slog.String("run", h.Run))
	}
	rec.AddAttrs(fieldsOf(e)...)
	_ = o.to.Handle(ctx, rec)
}

func levelOf(e Event) slog.Level {
	switch e := e.(type) {
	case InstanceParked, PanicCaught:
		return slog.LevelError
	case RunEnded:
		if e.Cause != CauseRequested {
			return slog.LevelError
		}
	case ConfigServed:
		if e.Stale {
			return slog.LevelWarn
		}
		return slog.LevelDebug
	case LogsShipped, ConfigPushed:
		return slog.LevelDebug
	case RestartScheduled, WorkerLost, WatchdogKilled, RegistrationLost, TableParked,
		HealthFailed, ConfigRefused, LogsDropped, QueueDamaged, QueueLeft, TransportFailed, QueryDenylisted,
		DatabaseReplaced, ConfigSetAside, OptionStripped, ConfigPartIgnored, DiscoveryFailed,
		FlagIneffective, RateAlarm:
		return slog.LevelWarn
	}
	return slog.LevelInfo
}

// fieldsOf gives an event's own fields. It reflects, so that a field that is
// added later cannot be forgotten here.
func fieldsOf(e Event) []slog.Attr {
	v := reflect.ValueOf(e)
	if v.Kind() != reflect.Struct {
		return nil
	}
	attrs := make([]slog.Attr, 0, v.NumField())
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if f.Anonymous || !f.IsExported() || isEmpty(v.Field(i)) {
			continue
		}
		attrs = append(attrs, slog.Attr{Key: fieldKey(f.Name), Value: fieldValue(v.Field(i))})
	}
	return attrs
}

// isEmpty is true for what says nothing. A 0 and a false do say something.
func isEmpty(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.String, reflect.Slice:
		return v.Len() == 0
	case reflect.Interface:
		return v.IsNil()
	default:
		return false
	}
}

func fieldValue(v reflect.Value) slog.Value {
	if v.Kind() == reflect.String {
		return slog.StringValue(v.String())
	}
	if err, ok := v.Interface().(error); ok {
		return slog.StringValue(err.Error())
	}
	return slog.AnyValue(v.Interface())
}

// fieldKey makes a Go name snake case: "InARow" is "in_a_row".
func fieldKey(name string) string {
	switch name {
	case "Err":
		return "error"
	case "PIDs":
		return "pids"
	}
	var b strings.Builder
	rs := []rune(name)
	for i, r := range rs {
		if i > 0 && unicode.IsUpper(r) && startsWord(rs, i) {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

// startsWord says that the capital at i > 0 is not part of an abbreviation.
func startsWord(rs []rune, i int) bool {
	return unicode.IsLower(rs[i-1]) || (i+1 < len(rs) && unicode.IsLower(rs[i+1]))
}
