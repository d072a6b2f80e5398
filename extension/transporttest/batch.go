package transporttest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/osqvisor/osqvisor/extension"
)

// newBatch makes a batch as the extension does.
func newBatch(instance string, queue extension.Queue, first uint64, lines ...string) extension.Batch {
	b := extension.Batch{
		ID: fmt.Sprintf("%s/%s/%d-%d", instance, queue, first, first+uint64(len(lines))-1), Queue: queue,
		First: first, Last: first + uint64(len(lines)) - 1, Try: 1,
	}
	for _, line := range lines {
		b.Lines = append(b.Lines, []byte(line))
		b.Bytes += len(line)
	}
	return b
}

// clone copies a batch with its lines, to compare with after the transport had it.
func clone(b extension.Batch) extension.Batch {
	lines := b.Lines
	b.Lines = make([][]byte, len(lines))
	for i, line := range lines {
		b.Lines[i] = bytes.Clone(line)
	}
	b.Signature = bytes.Clone(b.Signature)
	return b
}

// received gives a queue's batches without those that came again. Where the server
// sees no IDs, nothing can be dropped, and the lines must tell.
func (s *suite) received(instance string, queue extension.Queue) []extension.Batch {
	var out []extension.Batch
	seen := map[string]bool{}
	for _, b := range s.h.Received(instance) {
		if s.limits.Cannot[Queues] == "" && b.Queue != queue {
			continue
		}
		if s.limits.Cannot[BatchIDs] == "" {
			if seen[b.ID] {
				continue
			}
			seen[b.ID] = true
		}
		out = append(out, b)
	}
	return out
}

// same compares what arrived with what was sent, in order.
func (s *suite) same(instance string, got, want []extension.Batch) {
	s.Helper()
	if len(got) != len(want) {
		s.Fatalf("%s: the server has %d batches when PublishLogs has acknowledged %d", instance, len(got), len(want))
	}
	for i := range want {
		s.sameBatch(instance, got[i], want[i])
	}
}

func (s *suite) sameBatch(instance string, got, want extension.Batch) {
	s.Helper()
	if s.limits.Cannot[BatchIDs] == "" && (got.ID != want.ID || got.First != want.First || got.Last != want.Last) {
		s.Errorf("%s: batch %q (%d to %d) arrived as %q (%d to %d)", instance, want.ID, want.First, want.Last, got.ID, got.First, got.Last)
	}
	if s.limits.Cannot[Signatures] == "" && !bytes.Equal(got.Signature, want.Signature) {
		s.Errorf("%s: batch %q: signature %x arrived as %x", instance, want.ID, want.Signature, got.Signature)
	}
	if s.limits.Cannot[Queues] == "" && got.Queue != want.Queue {
		s.Errorf("%s: batch %q of queue %q arrived in %q", instance, want.ID, want.Queue, got.Queue)
	}
	if len(got.Lines) != len(want.Lines) {
		s.Errorf("%s: batch %q: %d lines arrived of %d", instance, want.ID, len(got.Lines), len(want.Lines))
		return
	}
	for i := range want.Lines {
		if !s.sameText(got.Lines[i], want.Lines[i]) {
			s.Errorf("%s: batch %q: line %d arrived as %s, want %s", instance, want.ID, i+1, short(got.Lines[i]), short(want.Lines[i]))
			return
		}
	}
}

// sameText compares lines, or rows. Unless the harness names ExactBytes, two spellings of one
// JSON value are the same.
func (s *suite) sameText(got, want []byte) bool {
	if bytes.Equal(got, want) {
		return true
	}
	if s.offers(ExactBytes) {
		return false
	}
	g, errGot := valueOf(got)
	w, errWant := valueOf(want)
	return errGot == nil && errWant == nil && reflect.DeepEqual(g, w)
}

// valueOf reads one JSON value; numbers stay as they are written.
func valueOf(text []byte) (v any, err error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if err = d.Decode(&v); err == nil && d.More() {
		err = errors.New("more than one value")
	}
	return v, err
}

func short(b []byte) string {
	if len(b) > 120 {
		return fmt.Sprintf("%q… (%d bytes)", b[:120], len(b))
	}
	return fmt.Sprintf("%q", b)
}

// jsonLine makes a JSON line of exactly size bytes.
func jsonLine(size int) string {
	const frame = `{"filler":""}`
	return `{"filler":"` + strings.Repeat("x", max(size-len(frame), 0)) + `"}`
}
