// Package glog reads the lines that osqueryd writes to its standard error:
//
//	Lmmdd HH:MM:SS.uuuuuu tid file:line] message
//
// with L one of I, W, E and F.
package glog

import (
	"bytes"
	"log/slog"
	"strconv"
	"sync"
	"time"
)

// LevelFatal is the level of F lines, after which osqueryd ends. It is above slog.LevelError.
const LevelFatal = slog.LevelError + 4

// Line is one parsed line.
type Line struct {
	// Level is slog's: I is Info, W is Warn, E is Error, F is LevelFatal.
	Level slog.Level
	// Month, Day and the time of day, in the child's local time; glog writes no year and no zone.
	Month        time.Month
	Day          int
	Hour, Minute int
	Second       int
	Microsecond  int
	// Thread is the id of the thread that wrote the line.
	Thread uint64
	// File and Line say where in the source of osqueryd; the line number is 0 or more.
	File string
	Line int
	// Message is what follows "] ".
	Message string
	// Raw is the whole line without its line end.
	Raw string
}

// stamp is the fixed part of the form; a 0 stands for any digit and the L for the level.
const stamp = "L0000 00:00:00.000000 "

// Parse parses one line, with or without its line end. It reports false, without allocating, for anything else, such
// as a message's second line. It keeps nothing of raw and is safe for concurrent use.
func Parse(raw []byte) (Line, bool) {
	raw = bytes.TrimRight(raw, "\r\n")
	level, ok := levelOf(raw)
	if !ok || !fits(raw) {
		return Line{}, false
	}
	line := Line{
		Level: level,
		Month: time.Month(digits(raw[1:3])), Day: digits(raw[3:5]),
		Hour: digits(raw[6:8]), Minute: digits(raw[9:11]), Second: digits(raw[12:14]), Microsecond: digits(raw[15:21]),
	}
	if !line.possible() || !line.parseOrigin(raw[len(stamp):]) {
		return Line{}, false
	}
	line.Raw = string(raw)
	line.Message = line.Raw[len(raw)-len(messageOf(raw)):]
	return line, true
}

func levelOf(raw []byte) (slog.Level, bool) {
	if len(raw) == 0 {
		return 0, false
	}
	switch raw[0] {
	case 'I':
		return slog.LevelInfo, true
	case 'W':
		return slog.LevelWarn, true
	case 'E':
		return slog.LevelError, true
	case 'F':
		return LevelFatal, true
	}
	return 0, false
}

func fits(raw []byte) bool {
	if len(raw) < len(stamp) {
		return false
	}
	for i := 1; i < len(stamp); i++ {
		if stamp[i] == '0' && (raw[i] < '0' || raw[i] > '9') || stamp[i] != '0' && raw[i] != stamp[i] {
			return false
		}
	}
	return true
}

// digits is for bytes that fits has checked.
func digits(b []byte) int {
	n := 0
	for _, c := range b {
		n = 10*n + int(c-'0')
	}
	return n
}

// possible allows second 60, which a leap second is.
func (l Line) possible() bool {
	return l.Month >= 1 && l.Month <= 12 && l.Day >= 1 && l.Day <= 31 && l.Hour < 24 && l.Minute < 60 && l.Second <= 60
}

// parseOrigin reads "tid file:line]". The thread may be padded with blanks; the file may hold anything but "]".
func (l *Line) parseOrigin(rest []byte) bool {
	origin, _, ok := bytes.Cut(rest, []byte("]"))
	if !ok {
		return false
	}
	thread, place, ok := bytes.Cut(bytes.TrimLeft(origin, " "), []byte(" "))
	if !ok {
		return false
	}
	colon := bytes.LastIndexByte(place, ':')
	if colon <= 0 || !number(thread) || !number(place[colon+1:]) {
		return false
	}
	id, threadErr := strconv.ParseUint(string(thread), 10, 64)
	at, lineErr := strconv.Atoi(string(place[colon+1:]))
	l.Thread, l.Line, l.File = id, at, string(place[:colon])
	return threadErr == nil && lineErr == nil
}

// number also keeps strconv from allocating an error for what is none, and from taking a sign.
func number(b []byte) bool {
	const longest = 18
	for _, c := range b {
		if c < '0' || c > '9' {
			return false
		}
	}
	return len(b) > 0 && len(b) <= longest
}

// messageOf is for lines whose origin is known to end in "]".
func messageOf(raw []byte) []byte {
	_, message, _ := bytes.Cut(raw[len(stamp):], []byte("]"))
	return bytes.TrimPrefix(message, []byte(" "))
}

// Tail keeps the last lines of a stream, bounded in number and in bytes, for the report of a failed start. It is safe for
// concurrent use; no method blocks for longer than a copy.
type Tail struct {
	maxLines, maxBytes int

	mu    sync.Mutex
	lines []string // oldest first
	size  int      // bytes in lines
}

// NewTail returns a Tail of at most maxLines lines and maxBytes bytes in all. Bounds below 1 count as 1.
func NewTail(maxLines, maxBytes int) *Tail {
	return &Tail{maxLines: max(maxLines, 1), maxBytes: max(maxBytes, 1)}
}

// Add appends a copy of line and drops the oldest lines that are too many then. Of a line longer than all bytes allowed
// the beginning is kept.
func (t *Tail) Add(line []byte) {
	text := string(line[:min(len(line), t.maxBytes)])
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lines = append(t.lines, text)
	t.size += len(text)
	for len(t.lines) > t.maxLines || t.size > t.maxBytes {
		t.size -= len(t.lines[0])
		t.lines[0] = "" // free the text now, the array later
		t.lines = t.lines[1:]
	}
}

// Lines returns the lines kept, oldest first. The slice is the caller's.
func (t *Tail) Lines() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]string(nil), t.lines...)
}
