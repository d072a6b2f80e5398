package plugin

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"sync"

	"github.com/osquery/osquery-go/gen/osquery"

	"github.com/osqvisor/osqvisor/internal/delivery"
	"github.com/osqvisor/osqvisor/internal/logline"
	"github.com/osqvisor/osqvisor/internal/record"
)

// The bits of osqueryd's "features" call.
const (
	featureStatus = 1 // forward status lines
	featureEvents = 2 // forward every event as it happens
)

// keepLineBuffer bounds the buffers that are kept for the next line.
const keepLineBuffer = 64 << 10

// loggers is the logger plugin: it appends what osqueryd logs to the queues, byte
// for byte but for line breaks, and never refuses.
type loggers struct {
	results, snapshots, status *delivery.Shipper
	counters                   *record.Counters
	features                   int32
	buffers                    sync.Pool // of *[]byte: a line arrives as a string
}

func newLoggers(results, snapshots, status *delivery.Shipper, counters *record.Counters, rawEvents bool) *loggers {
	l := &loggers{results: results, snapshots: snapshots, status: status, counters: counters, features: featureStatus}
	if rawEvents {
		l.features |= featureEvents
	}
	l.buffers.New = func() any { return new([]byte) }
	return l
}

// call answers osqueryd. A refused result ends osqueryd with code 78 after it has
// moved on, so a line that cannot be kept is counted, and answered 0.
func (l *loggers) call(req map[string]string) osquery.ExtensionResponse {
	if line, ok := req["string"]; ok {
		l.line(l.results, line)
		return success(nil)
	}
	if line, ok := req["snapshot"]; ok {
		l.line(l.snapshots, line)
		return success(nil)
	}
	return l.rare(req)
}

func (l *loggers) rare(req map[string]string) osquery.ExtensionResponse {
	if batch, ok := req["string_batch"]; ok {
		l.batch(batch)
		return success(nil)
	}
	if line, ok := req["event"]; ok {
		l.line(l.results, line)
		return success(nil)
	}
	_, init := req["init"]
	_, status := req["status"]
	if init || status {
		l.statusLines(req["log"])
		return success(nil)
	}
	if line, ok := req["health"]; ok {
		l.line(l.status, line)
		return success(nil)
	}
	if req["action"] == "features" {
		r := success(nil)
		r.Status.Code = l.features
		return r
	}
	return failure("unknown log request")
}

// line appends one line as it is, but for line breaks and lines with nothing in them.
func (l *loggers) line(to *delivery.Shipper, line string) {
	if line == "" || line[0] <= ' ' && strings.TrimSpace(line) == "" {
		return
	}
	line = logline.OneLine(line)
	l.counters.In(len(line))
	buf, _ := l.buffers.Get().(*[]byte)
	*buf = append((*buf)[:0], line...)
	_ = to.Append(*buf) // a loss is counted and announced there
	if cap(*buf) <= keepLineBuffer {
		l.buffers.Put(buf)
	}
}

// batch appends the lines of a JSON array of strings, byte for byte. What is no such array is
// kept as one line rather than lost.
func (l *loggers) batch(text string) {
	var raw []json.RawMessage
	if err := json.Unmarshal([]byte(text), &raw); err != nil {
		l.line(l.results, text)
		return
	}
	lines := make([]string, len(raw))
	for i, r := range raw {
		var err error
		if lines[i], err = unquote(r); err != nil {
			l.line(l.results, text)
			return
		}
	}
	for _, line := range lines {
		l.line(l.results, line)
	}
}

// unquote reads a JSON string and leaves bytes that are not UTF-8 as they are, where
// package json puts U+FFFD; null is "".
func unquote(raw json.RawMessage) (string, error) {
	if len(raw) < 2 || raw[0] != '"' {
		var s string
		err := json.Unmarshal(raw, &s)
		return s, err
	}
	var out []byte
	for rest := raw[1 : len(raw)-1]; len(rest) > 0; {
		plain := bytes.IndexByte(rest, '\\')
		if plain < 0 {
			return string(append(out, rest...)), nil
		}
		out, rest = append(out, rest[:plain]...), rest[plain:]
		n := escapesIn(rest)
		var s string
		if err := json.Unmarshal(slices.Concat([]byte{'"'}, rest[:n], []byte{'"'}), &s); err != nil {
			return "", err
		}
		out, rest = append(out, s...), rest[n:]
	}
	return string(out), nil
}

// escapesIn returns the length of the escape sequences that b begins with: halves of a
// surrogate pair belong together.
func escapesIn(b []byte) (n int) {
	for n+1 < len(b) && b[n] == '\\' {
		if n += 2; b[n-1] == 'u' {
			n = min(n+4, len(b))
		}
	}
	return n
}

// statusLines appends the elements of a JSON array, each as osqueryd wrote it.
// What is no array is kept as one line rather than lost.
func (l *loggers) statusLines(text string) {
	if text == "" {
		return
	}
	var lines []json.RawMessage
	if err := json.Unmarshal([]byte(text), &lines); err != nil {
		l.line(l.status, text)
		return
	}
	for _, line := range lines {
		l.line(l.status, string(line))
	}
}
