package osquerydtest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

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
