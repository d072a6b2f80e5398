package guard

import (
	"context"
	"log/slog"
	"slices"
	"sync/atomic"
)

// LogSwitch is a handler of contained loggers whose target can be exchanged, also of those derived from it.
type LogSwitch struct {
	root   *atomic.Pointer[slog.Logger]
	derive []func(slog.Handler) slog.Handler
}

// NewLogSwitch makes one that hands records to a contained logger.
func NewLogSwitch(l *slog.Logger) *LogSwitch {
	s := &LogSwitch{root: &atomic.Pointer[slog.Logger]{}}
	s.root.Store(l)
	return s
}

// Set exchanges the logger.
func (s *LogSwitch) Set(l *slog.Logger) { s.root.Store(l) }

func (s *LogSwitch) with(f func(slog.Handler) slog.Handler) slog.Handler {
	return &LogSwitch{root: s.root, derive: append(slices.Clip(s.derive), f)}
}

// WithAttrs is slog.Handler's.
func (s *LogSwitch) WithAttrs(attrs []slog.Attr) slog.Handler {
	return s.with(func(h slog.Handler) slog.Handler { return h.WithAttrs(attrs) })
}

// WithGroup is slog.Handler's.
func (s *LogSwitch) WithGroup(name string) slog.Handler {
	return s.with(func(h slog.Handler) slog.Handler { return h.WithGroup(name) })
}

// Enabled is slog.Handler's.
func (s *LogSwitch) Enabled(ctx context.Context, level slog.Level) bool {
	return s.root.Load().Handler().Enabled(ctx, level)
}

// Handle is slog.Handler's.
func (s *LogSwitch) Handle(ctx context.Context, r slog.Record) error {
	h := s.root.Load().Handler()
	for _, f := range s.derive {
		h = f(h)
	}
	return h.Handle(ctx, r)
}
