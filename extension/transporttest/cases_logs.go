package transporttest

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"github.com/osqvisor/osqvisor/extension"
)

func queues() []extension.Queue {
	return []extension.Queue{extension.QueueResults, extension.QueueSnapshots, extension.QueueStatus}
}

// order: acknowledged batches are at the server, in the order they were handed over.
func order(s *suite) {
	node := s.node("order")
	list := queues()
	if !s.can(Queues) {
		list = list[:1]
	}
	sent := map[extension.Queue][]extension.Batch{}
	for i := range uint64(20) {
		for _, queue := range list {
			b := newBatch("order", queue, 2*i+1, fmt.Sprintf(`{"n":"%d"}`, 2*i+1), fmt.Sprintf(`{"n":"%d"}`, 2*i+2))
			sent[queue] = append(sent[queue], clone(b))
			s.publish(node, b)
		}
	}
	for _, queue := range list {
		s.same("order", s.received("order", queue), sent[queue])
	}
}

// duplicates: a batch that is sent again keeps its ID and arrives again or is
// dropped by it; batches that only look alike are not confused.
func duplicates(s *suite) {
	node := s.node("duplicates")
	first := newBatch("duplicates", extension.QueueResults, 1, `{"same":"line"}`)
	twin := newBatch("duplicates", extension.QueueResults, 2, `{"same":"line"}`)
	want := []extension.Batch{clone(first), clone(twin)}
	if s.can(LostAnswers) && s.can(BatchIDs) {
		s.h.FailNext(Failure{Kind: LostAnswer}, 1)
		err := s.within("PublishLogs", callTimeout, func(ctx context.Context) error {
			return s.h.Transport().PublishLogs(ctx, node, first)
		})
		s.h.FailNext(Failure{}, 0)
		if first.Try++; err != nil { // else it has repeated the call on its own
			s.publish(node, first)
		}
	} else {
		s.publish(node, first)
	}
	s.publish(node, twin)
	s.same("duplicates", s.received("duplicates", extension.QueueResults), want)
}

// retried: after a failure the same batch is really sent again.
func retried(s *suite) {
	node := s.node("retried")
	b := newBatch("retried", extension.QueueResults, 1, `{"a":"1"}`)
	want := []extension.Batch{clone(b)}
	s.h.FailNext(Failure{Kind: Temporary}, 3)
	for range 3 {
		err := s.within("PublishLogs", callTimeout, func(ctx context.Context) error {
			return s.h.Transport().PublishLogs(ctx, node, b)
		})
		if err == nil {
			s.Fatalf("PublishLogs: nil although the server failed")
		}
		if got := s.h.Received("retried"); len(got) != 0 {
			s.Fatalf("the server took %d batches from calls it failed", len(got))
		}
		b.Try++
	}
	s.publish(node, b)
	s.same("retried", s.received("retried", extension.QueueResults), want)
}

// signature: a detached signature arrives with its batch, and none when there is none.
func signature(s *suite) {
	node := s.node("signature")
	signed := newBatch("signature", extension.QueueResults, 1, `{"a":"1"}`)
	signed.Signature = []byte("\x00\x01signature\xff")
	plain := newBatch("signature", extension.QueueResults, 2, `{"a":"2"}`)
	want := []extension.Batch{clone(signed), clone(plain)}
	s.publish(node, signed)
	s.publish(node, plain)
	s.same("signature", s.received("signature", extension.QueueResults), want)
}

// huge: a batch of 8 MiB and a line of more than 1 MiB pass.
func huge(s *suite) {
	node := s.node("huge")
	line, total := 1<<20+1, 8<<20
	if s.limits.MaxLine > 0 && s.limits.MaxLine < line {
		s.Logf("not tested: lines above %d bytes", s.limits.MaxLine)
		line = s.limits.MaxLine
	}
	if s.limits.MaxBatch > 0 && s.limits.MaxBatch < total {
		s.Logf("not tested: batches above %d bytes", s.limits.MaxBatch)
		total = s.limits.MaxBatch
	}
	var lines []string
	for left := total; left > 0; left -= line {
		lines = append(lines, jsonLine(min(left, line)))
	}
	sent := []extension.Batch{newBatch("huge", extension.QueueResults, 1, lines...)}
	sent = append(sent, newBatch("huge", extension.QueueResults, sent[0].Last+1, smallLines(20_000, total)...))
	for _, b := range sent {
		s.publish(node, clone(b))
	}
	s.same("huge", s.received("huge", extension.QueueResults), sent)
}

// smallLines returns n lines, or fewer when they would be more than limit bytes.
func smallLines(n, limit int) (lines []string) {
	for i := range n {
		line := fmt.Sprintf(`{"n":"%d"}`, i)
		if limit -= len(line); limit < 0 {
			break
		}
		lines = append(lines, line)
	}
	return lines
}

// longLine returns a line of size bytes, or of what the harness allows beside others.
func (s *suite) longLine(size int) string {
	if s.limits.MaxLine > 0 {
		size = min(size, s.limits.MaxLine)
	}
	if s.limits.MaxBatch > 0 {
		size = min(size, s.limits.MaxBatch/2)
	}
	return jsonLine(size)
}

// least: the least that the extension hands over is one line. It never makes an empty batch.
func least(s *suite) {
	node := s.node("least")
	first := newBatch("least", extension.QueueResults, 1, `{}`)
	second := newBatch("least", extension.QueueResults, 2, `{}`, `{}`)
	want := []extension.Batch{clone(first), clone(second)}
	s.publish(node, first)
	s.publish(node, second)
	s.same("least", s.received("least", extension.QueueResults), want)
}

// bytesOfLines: lines keep what they hold. They are JSON without line breaks, as the
// extension makes them; white space and escapes count only with ExactBytes.
func bytesOfLines(s *suite) {
	node := s.node("bytes")
	lines := []string{
		`{"plain":"line"}`, `{ "spaced" : [ 1.0, 1e5, -0 ] , "deep":{"a":[{"b":null},true,""]} }`,
		`{"big":123456789012345678901234567890}`, `{"html":"<&>","slash":"\/"}`,
		`{"unicode":"žluťoučký 🐎 ` + "\u2028" + `","escaped":"\u017e\ud83d\udc0e\u003c"}`,
		`{"breaks":"a\nb\r\nc\td\u0000"}`, `{"":" "}`, `[]`,
	}
	if s.can(ExactBytes) {
		lines = append(lines, ` {"padded":1}  `, `{"dup":1,"dup":2}`, "{\"bad\":\"\xff\"}")
	}
	b := newBatch("bytes", extension.QueueResults, 1, lines...)
	want := clone(b)
	s.publish(node, b)
	s.same("bytes", s.received("bytes", extension.QueueResults), []extension.Batch{want})
}

// notJSON: so do lines that are no JSON, which osqueryd never logs.
func notJSON(s *suite) {
	node := s.node("not-json")
	lines := []string{"not JSON at all", "tabs\tand \x00 nul", `{"torn":`, `"quote \" in it`, `{"a":1}`}
	if s.can(ExactBytes) {
		lines = append(lines, "\xff\xfe\x00 not UTF-8 \xc3\x28")
	}
	b := newBatch("not-json", extension.QueueResults, 1, lines...)
	want := clone(b)
	s.publish(node, b)
	s.same("not-json", s.received("not-json", extension.QueueResults), []extension.Batch{want})
}

// ownership: lines are not changed, and not used after the call returned.
func ownership(s *suite) {
	node := s.node("ownership")
	b := newBatch("ownership", extension.QueueResults, 1, `{"a":"1"}`, `{"b":"2"}`, s.longLine(64<<10))
	want := clone(b)
	s.publish(node, b)
	s.unchanged(b, want)
	scribble(b)
	second := newBatch("ownership", extension.QueueResults, 4, `{"a":"4"}`)
	want2 := clone(second)
	s.publish(node, second)
	s.same("ownership", s.received("ownership", extension.QueueResults), []extension.Batch{want, want2})
	if !s.can(Hangs) {
		return
	}
	// After a call that was given up, too: -race sees a transport still reading.
	s.h.FailNext(Failure{Kind: Hang}, 1)
	third := newBatch("ownership", extension.QueueResults, 5, s.longLine(1<<20), `{"b":"2"}`)
	want = clone(third)
	_ = s.within("PublishLogs", shortWait, func(ctx context.Context) error {
		return s.h.Transport().PublishLogs(ctx, node, third)
	})
	s.h.FailNext(Failure{}, 0)
	s.unchanged(third, want)
	scribble(third)
}

func (s *suite) unchanged(got, want extension.Batch) {
	s.Helper()
	if !slices.EqualFunc(got.Lines, want.Lines, bytes.Equal) {
		s.Errorf("PublishLogs changed the lines it was given")
	}
}

func scribble(b extension.Batch) {
	for _, line := range b.Lines {
		for i := range line {
			line[i] = '!'
		}
	}
}
