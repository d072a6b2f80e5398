package glog

import "sync"

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
