package guard

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"
)

const (
	// LogPatience is how long who logs waits for the host's handler. Within it a record is
	// written when the call returns, as with the handler alone.
	LogPatience = 100 * time.Millisecond
	// LogCapacity is how many records wait for a handler that takes longer; the newest are
	// dropped and counted beyond.
	LogCapacity = 1024
	// LogSettle is the longest wait of SettleLog.
	LogSettle = time.Second
)

// Logger contains the handler of a host's logger: one that blocks, panics or is slow holds
// up nobody. All loggers derived from it share one line, in which the handler is called
// one record at a time, by a goroutine that exists only while there are records. It says
// whether the logger was not contained before.
func Logger(l *slog.Logger) (contained *slog.Logger, fresh bool) {
	h := l.Handler()
	switch h.(type) {
	case *logHandler, *LogSwitch:
		return l, false
	}
	if h == slog.DiscardHandler {
		return l, false
	}
	return slog.New(&logHandler{line: &logLine{root: h}, to: h}), true
}

// SettleLog waits, for at most d and LogSettle, until everything logged was handed to the host's
// handler; then it drops what waits. Of a handler that does not return it waits once.
func SettleLog(l *slog.Logger, d time.Duration) {
	if h, ours := l.Handler().(*logHandler); ours {
		h.line.settle(min(d, LogSettle))
	}
}

// logHandler is a slog.Handler. Attributes and groups are added to the host's handler in
// the line too, since that is the host's code.
type logHandler struct {
	line   *logLine
	parent *logHandler                     // nil for the host's own
	derive func(slog.Handler) slog.Handler // from the parent's
	to     slog.Handler                    // nil until it is derived; belongs to the line's goroutine
}

func (h *logHandler) handler() slog.Handler {
	if h.to == nil {
		h.to = h.parent.handler()
		h.to = h.derive(h.to) // after a panic it is the parent's
	}
	return h.to
}

func (h *logHandler) with(derive func(slog.Handler) slog.Handler) slog.Handler {
	return &logHandler{line: h.line, parent: h, derive: derive}
}

// WithAttrs is part of slog.Handler.
func (h *logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	attrs = slices.Clone(attrs)
	return h.with(func(to slog.Handler) slog.Handler { return to.WithAttrs(attrs) })
}

// WithGroup is part of slog.Handler.
func (h *logHandler) WithGroup(name string) slog.Handler {
	return h.with(func(to slog.Handler) slog.Handler { return to.WithGroup(name) })
}

// Enabled is true, too, while the handler is late: it is called again before it gets the record.
func (h *logHandler) Enabled(ctx context.Context, level slog.Level) bool {
	j := logJob{h: h, ctx: ctx, level: level}
	finished := h.line.do(&j)
	return !finished || j.enabled
}

// Handle is part of slog.Handler.
func (h *logHandler) Handle(ctx context.Context, r slog.Record) error {
	j := logJob{h: h, ctx: context.WithoutCancel(ctx), level: r.Level, record: r.Clone(), write: true}
	h.line.do(&j)
	return nil
}

// logJob is one call of the host's handler.
type logJob struct {
	h       *logHandler
	ctx     context.Context
	level   slog.Level
	record  slog.Record
	write   bool
	enabled bool
	done    chan struct{}
}

// call runs in the line's goroutine.
func (j *logJob) call() {
	defer close(j.done)
	defer func() {
		if v := recover(); v != nil {
			j.h.line.panicked(v)
		}
	}()
	to := j.h.handler()
	if j.enabled = to.Enabled(j.ctx, j.level); j.enabled && j.write {
		_ = to.Handle(j.ctx, j.record) // its error is for the handler to report
		j.h.line.written()
	}
}

// logLine calls a host's handler for all loggers derived from one.
type logLine struct {
	root slog.Handler

	mu      sync.Mutex
	queue   []*logJob
	working bool
	idle    chan struct{} // closed when the work at hand is done; nil while nobody waits
	late    bool          // somebody lost patience; nobody waits until the queue is empty
	given   bool          // settle lost patience too
	lost    uint64        // records, not reported yet
	panics  uint64        // of records, which the handler could not report yet
	why     string        // the newest panic
}

// do has the handler called, and reports whether that is over.
func (l *logLine) do(j *logJob) (finished bool) {
	j.done = make(chan struct{})
	if !l.enqueue(j) {
		return false
	}
	timer := time.NewTimer(LogPatience)
	defer timer.Stop()
	select {
	case <-j.done:
		return true
	case <-timer.C:
		return l.losePatience(j)
	}
}

// enqueue reports whether it is worth waiting for. While it is not, only what is written is queued.
func (l *logLine) enqueue(j *logJob) (wait bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.late && !j.write:
		return false
	case len(l.queue) >= LogCapacity:
		l.lost++
		return false
	}
	l.queue = append(l.queue, j)
	if !l.working {
		l.working = true
		go l.work() // it ends with the queue; settle joins it
	}
	return !l.late
}

func (l *logLine) losePatience(j *logJob) (finished bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-j.done:
		return true
	default:
		l.late = true
		return false
	}
}

func (l *logLine) work() {
	over := false
	defer func() {
		if !over { // the handler ended this goroutine with runtime.Goexit
			go l.work()
		}
	}()
	for {
		j := l.next()
		if j == nil {
			over = true
			return
		}
		j.call()
	}
}

// next returns nil when the work is done; before that it reports what was lost.
func (l *logLine) next() *logJob {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case len(l.queue) > 0:
		j := l.queue[0]
		l.queue[0] = nil
		l.queue = l.queue[1:]
		return j
	case l.lost > 0:
		return l.report()
	}
	l.working, l.late, l.given, l.queue = false, false, false, nil
	if l.idle != nil {
		close(l.idle)
		l.idle = nil
	}
	return nil
}

// report is called under the lock.
func (l *logLine) report() *logJob {
	r := slog.NewRecord(time.Now(), slog.LevelError, "log records were lost: the log handler panicked, or was too slow", 0)
	r.AddAttrs(slog.Uint64("records", l.lost))
	if l.why != "" {
		r.AddAttrs(slog.String("panic", l.why))
	}
	l.lost, l.why = 0, ""
	return &logJob{
		h: &logHandler{line: l, to: l.root}, ctx: context.Background(), level: r.Level, record: r, write: true,
		done: make(chan struct{}),
	}
}

// panicked counts a panic. It is reported after the next record that is written: right
// away the handler would panic again.
func (l *logLine) panicked(v any) {
	why := fmt.Sprint(v) // fmt contains panics of its own
	l.mu.Lock()
	defer l.mu.Unlock()
	l.panics, l.why = l.panics+1, why
}

// written notes that the handler works.
func (l *logLine) written() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lost += l.panics
	l.panics = 0
}

func (l *logLine) settle(d time.Duration) {
	l.mu.Lock()
	if !l.working {
		l.mu.Unlock()
		return
	}
	if l.idle == nil {
		l.idle = make(chan struct{})
	}
	idle, given := l.idle, l.given
	l.mu.Unlock()
	if given {
		d = 0
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-idle:
		return
	case <-timer.C:
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.working {
		l.given = true
		l.lost += uint64(len(l.queue))
		l.queue = nil
	}
}
