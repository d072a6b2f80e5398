package fakeosqueryd

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// severity is a level of the logging library.
type severity int

const (
	sevInfo severity = iota
	sevWarning
	sevError
)

// statusLine is one log line on its way to the logger plugins.
type statusLine struct {
	Severity severity `json:"s"`
	File     string   `json:"f"`
	Line     int      `json:"i"`
	Message  string   `json:"m"`
	Host     string   `json:"h"`
	Calendar string   `json:"c"`
	Unix     int64    `json:"u"`
}

// logger writes glog lines to stderr and keeps them for the logger plugins.
// It is safe for concurrent use.
type logger struct {
	mu       sync.Mutex
	out      io.Writer
	keep     bool // keep lines for relaying
	min      severity
	verbose  bool
	kept     []statusLine
	onBuffer func() // told when the first line is kept
}

// maxKept bounds the lines kept while nobody takes them.
const maxKept = 10_000

func newLogger(out io.Writer) *logger { return &logger{out: out} }

func (l *logger) configure(flags *flagSet) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.verbose = flags.bool("verbose")
	l.min = severity(flags.num("logger_min_status"))
	if l.verbose {
		l.min = sevInfo
	}
}

// at names the source line, as "init.cpp:512".
func (l *logger) info(at, format string, args ...any)  { l.write(sevInfo, at, format, args...) }
func (l *logger) warn(at, format string, args ...any)  { l.write(sevWarning, at, format, args...) }
func (l *logger) error(at, format string, args ...any) { l.write(sevError, at, format, args...) }

// debug lines need --verbose.
func (l *logger) debug(at, format string, args ...any) {
	l.mu.Lock()
	verbose := l.verbose
	l.mu.Unlock()
	if verbose {
		l.write(sevInfo, at, format, args...)
	}
}

func (l *logger) write(sev severity, at, format string, args ...any) {
	now := time.Now()
	msg := fmt.Sprintf(format, args...)
	l.mu.Lock()
	defer l.mu.Unlock()
	if sev < l.min {
		return
	}
	fmt.Fprintf(l.out, "%c%s %6d %s] %s\n", "IWE"[sev], now.Format("0102 15:04:05.000000"), os.Getpid(), at, msg)
	if !l.keep || len(l.kept) >= maxKept {
		return
	}
	file, line, _ := strings.Cut(at, ":")
	n, _ := strconv.Atoi(line)
	l.kept = append(l.kept, statusLine{
		Severity: sev, File: file, Line: n, Message: msg, Calendar: calendar(now), Unix: now.Unix(),
	})
	if len(l.kept) == 1 && l.onBuffer != nil {
		l.onBuffer()
	}
}

// raw writes bytes that are no log line.
func (l *logger) raw(text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, _ = io.WriteString(l.out, text)
}

// take empties the kept lines.
func (l *logger) take(host string) []statusLine {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := l.kept
	l.kept = nil
	for i := range out {
		out[i].Host = host
	}
	return out
}

// forget keeps no lines any more: nobody wants them.
func (l *logger) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.keep, l.kept = false, nil
}

func (l *logger) pending() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.kept) > 0
}

// notify sets who is told that a line waits.
func (l *logger) notify(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.onBuffer = f
}

// calendar is asctime in UTC.
func calendar(t time.Time) string { return t.UTC().Format("Mon Jan _2 15:04:05 2006") + " UTC" }

const (
	resultsLog   = "osqueryd.results.log"
	snapshotsLog = "osqueryd.snapshots.log"
)

// logPlugins sends lines to the active loggers, which may be several; the
// status of the last one counts. It is safe for concurrent use.
type logPlugins struct {
	w       *worker
	relayMu sync.Mutex // one relay at a time keeps the order

	mu       sync.Mutex
	statuses []string // those that want status lines
}

func newLogPlugins(w *worker) *logPlugins { return &logPlugins{w: w} }

func (l *logPlugins) active() []string {
	return strings.Split(l.w.registry.activeName("logger"), ",")
}

// init tells each logger to start and asks what it wants.
func (l *logPlugins) init() {
	for _, name := range l.active() {
		l.w.registry.call("logger", name, map[string]string{"init": "osqueryd"})
		features := l.w.registry.call("logger", name, map[string]string{"action": "features"})
		if features.code&1 != 0 {
			l.mu.Lock()
			l.statuses = append(l.statuses, name)
			l.mu.Unlock()
		}
	}
	l.mu.Lock()
	none := len(l.statuses) == 0
	l.mu.Unlock()
	if none {
		l.w.p.log.forget()
	}
	l.relay()
}

// relay sends the waiting status lines. Nobody reads what loggers answer.
func (l *logPlugins) relay() {
	if l.w.p.flags.bool("disable_logging") {
		return
	}
	l.mu.Lock()
	to := slices.Clone(l.statuses)
	l.mu.Unlock()
	if len(to) == 0 {
		return
	}
	l.relayMu.Lock()
	defer l.relayMu.Unlock()
	lines := l.w.p.log.take(l.w.hostIdentifier())
	if len(lines) == 0 {
		return
	}
	req := map[string]string{"status": "true", "log": encode(lines)}
	for _, name := range to {
		l.w.registry.call("logger", name, req)
	}
}

// results logs a differential.
func (l *logPlugins) results(it logItem) error {
	if l.w.p.flags.bool("logger_event_type") {
		return l.strings(it.eventLines())
	}
	return l.strings([]string{it.batchLine()})
}

func (l *logPlugins) strings(lines []string) error {
	return l.each(lines, func(line string) map[string]string {
		return map[string]string{"string": line, "category": "event"}
	})
}

// snapshot logs a whole result.
func (l *logPlugins) snapshot(it logItem) error {
	lines := []string{it.snapshotLine()}
	if l.w.p.flags.bool("logger_snapshot_event_type") {
		lines = it.eventLines()
	}
	return l.each(lines, func(line string) map[string]string { return map[string]string{"snapshot": line} })
}

// each sends all lines to all loggers; the last status counts.
func (l *logPlugins) each(lines []string, request func(string) map[string]string) error {
	if l.w.p.flags.bool("disable_logging") {
		return nil
	}
	var last result
	for _, line := range lines {
		for _, name := range l.active() {
			last = l.w.registry.call("logger", name, request(line))
		}
		l.w.count.lines.Add(1)
	}
	return last.err()
}

// emit logs lines that a test made up, with the consequences of real ones.
func (l *logPlugins) emit(lines []string) error {
	err := l.strings(lines)
	if err != nil {
		l.w.failLogging("emit", err)
	}
	return err
}

// failLogging ends the process: a logger must not refuse results.
func (w *worker) failLogging(query string, err error) {
	w.p.fail(exitCatastrophic, "Error logging the results of query: %s: %s", query, err)
}

// callBuiltin is core's own loggers.
func (l *logPlugins) callBuiltin(name string, req map[string]string) result {
	line, file := req["string"], resultsLog
	if s, ok := req["snapshot"]; ok {
		line, file = s, snapshotsLog
	}
	switch {
	case line == "":
		return result{message: "OK"} // init, features and status
	case name == "filesystem":
		return plain(l.append(file, line))
	case name == "stdout":
		_, err := fmt.Fprintln(l.w.p.stdout, line)
		return plain(err)
	case name == "stderr":
		l.w.p.log.raw(line + "\n")
	}
	return result{message: "OK"}
}

// createFile makes the results log, as the filesystem logger does at its
// start.
func (l *logPlugins) createFile(name string) error { return l.append(name, "") }

func (l *logPlugins) append(name, line string) error {
	path := filepath.Join(l.w.p.flags.str("logger_path"), name)
	l.mu.Lock()
	defer l.mu.Unlock()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640) //nolint:gosec // logger_mode's default
	if err != nil {
		return fmt.Errorf("Could not create file: %s", path) //nolint:staticcheck // osqueryd's text
	}
	if line != "" {
		_, err = f.WriteString(line + "\n")
	}
	return errors.Join(err, f.Close())
}
