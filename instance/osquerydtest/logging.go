package osquerydtest

import (
	"fmt"
	"io"
	"os"
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
