package stats

import (
	"context"
	"log/slog"
	"reflect"
	"strings"
	"time"
)

// LogTo returns an Observer that logs each event: the message is the kind, the time the
// event's, and the attributes are "instance", "run" and the event's own fields in snake case
// ("in_a_row"; an Err is "error"). Durations are rounded; what is empty or 0 for "none" is
// left out. A nil logger discards. It is safe for concurrent use.
//
// The level is Error for a parked instance, a failed run and a panic, Warn for other
// trouble, Debug for routine (logs delivered, configs served and pushed), else Info.
//
// The loggers of runtime.WithLogger and instance.WithLogger never log what an event
// reports: with LogTo on the same logger everything is logged, once.
func LogTo(l *slog.Logger) Observer {
	if l == nil {
		l = slog.New(slog.DiscardHandler)
	}
	return logObserver{l.Handler()}
}

type logObserver struct{ to slog.Handler }

// Observe calls the handler itself, because a Logger would stamp the record with the time
// of writing. Nobody could use the handler's error.
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
	for key, v := range fieldsOf(e) {
		if attr, tells := logField(e, key, v); tells {
			rec.AddAttrs(attr)
		}
	}
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
	case LogsDelivered, ConfigPushed:
		return slog.LevelDebug
	case RestartScheduled, WorkerLost, WatchdogKilled, RegistrationLost, TableParked,
		HealthFailed, ConfigRefused, LogsDropped, QueueDamaged, QueueLeft, TransportFailed, QueryDenylisted,
		DatabaseReplaced, ConfigSetAside, OptionStripped, ConfigPartIgnored, DiscoveryFailed,
		FlagIneffective, RateAlarm:
		return slog.LevelWarn
	}
	return slog.LevelInfo
}

// logField returns one field of an event for people, and false when it has nothing to tell
// them: a number or duration of 0 is left out unless it has a meaning of its own, and so is
// a hint that the error has too.
func logField(e Event, key string, v any) (slog.Attr, bool) {
	if ended, ok := e.(RunEnded); ok && key == "code" {
		return slog.Int(key, ended.Code), ended.PID != 0 && ended.Code >= 0
	}
	if ended, ok := e.(RunEnded); ok && key == "hint" && ended.Err != nil {
		return slog.String(key, ended.Hint), !strings.Contains(ended.Err.Error(), ended.Hint)
	}
	if zero, ok := zeros[e.Kind()+" "+key]; ok && v == any(time.Duration(0)) {
		return slog.String(key, zero), true
	}
	switch v := v.(type) {
	case time.Duration:
		return slog.Duration(key, rounded(v)), v != 0
	case error:
		return slog.String(key, v.Error()), true
	case bool:
		return slog.Bool(key, v), true
	}
	r := reflect.ValueOf(v)
	if r.Kind() == reflect.String {
		return slog.String(key, r.String()), true
	}
	return slog.Any(key, v), !r.IsZero()
}

// zeros are the texts for durations of 0 that have a meaning, by kind and field.
var zeros = map[string]string{
	"instance parked for":     "until it is resumed",
	"restart scheduled delay": "none",
	"transport failed retry":  "when osqueryd asks again",
}

// rounded returns d with the digits that people read.
func rounded(d time.Duration) time.Duration {
	switch {
	case d >= time.Minute:
		return d.Round(time.Second)
	case d >= time.Second:
		return d.Round(10 * time.Millisecond)
	case d >= time.Millisecond:
		return d.Round(10 * time.Microsecond)
	default:
		return d
	}
}
