package transporttest

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/osqvisor/osqvisor/extension"
)

// tb is the part of testing.TB that cases use, so that the suite's own tests can
// watch them fail.
type tb interface {
	Helper()
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	Skipf(format string, args ...any)
}

type testCase struct {
	name  string
	needs []Feature // tested unless declared as missing, or only if named in Limits.Also
	run   func(s *suite)
}

// suite is one case under way.
type suite struct {
	tb
	h      Harness
	limits Limits
	// configured holds the instances that have a config.
	configured map[string]bool
}

const callTimeout = 30 * time.Second // for calls that are expected to succeed

func (c testCase) runOn(t tb, h Harness) {
	t.Helper()
	limits := h.Limits()
	for feature, reason := range limits.Cannot {
		if strings.TrimSpace(reason) == "" {
			t.Fatalf("Limits.Cannot: %q is declared without a reason", feature)
		}
	}
	if limits.Cannot[Sources] != "" && limits.Source == "" {
		t.Fatalf("Limits.Source: needed when there is only one")
	}
	for _, feature := range c.needs {
		if beyond(feature) && !slices.Contains(limits.Also, feature) {
			t.Skipf("not tested, the harness does not name %q in Limits.Also", feature)
		}
		if reason := limits.Cannot[feature]; reason != "" {
			t.Skipf("not tested, the harness declares that it cannot do %q: %s", feature, reason)
		}
	}
	c.run(&suite{tb: t, h: h, limits: limits, configured: map[string]bool{}})
}

// beyond reports a feature that not every transport needs.
func beyond(f Feature) bool {
	switch f {
	case TooLarges, ExactBytes, NotJSON:
		return true
	default:
		return false
	}
}

// offers reports whether a feature is there.
func (s *suite) offers(f Feature) bool {
	return s.limits.Cannot[f] == "" && (!beyond(f) || slices.Contains(s.limits.Also, f))
}

// can reports whether a feature is there, and logs why not.
func (s *suite) can(f Feature) bool {
	s.Helper()
	ok := s.offers(f)
	if !ok {
		s.Logf("not tested: %q: %s", f, cmp.Or(s.limits.Cannot[f], "not named in Limits.Also"))
	}
	return ok
}

// node returns an instance's node, enrolled when the transport does that, and known to the
// server: nobody asks for a config before there is one.
func (s *suite) node(instance string) extension.Node {
	s.Helper()
	node := s.enrolled(instance)
	if s.limits.Cannot[Configs] == "" && !s.configured[instance] {
		s.h.SetConfig(instance, s.sources(`{}`, nil))
		s.configured[instance] = true
	}
	return node
}

func (s *suite) enrolled(instance string) extension.Node {
	s.Helper()
	node := extension.Node{
		Instance: instance, Run: "run-of-" + instance, HostIdentifier: instance,
		OsqueryVersion: "5.23.0", Labels: map[string]string{"instance": instance},
	}
	enroller, ok := s.h.Transport().(extension.Enroller)
	if !ok {
		return node
	}
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	key, err := enroller.Enroll(ctx, extension.EnrollRequest{
		Node: node, PlatformType: 9,
		HostDetails: map[string]map[string]string{"os_version": {"name": "Ubuntu"}},
	})
	if err != nil {
		s.Fatalf("Enroll(%s): %v", instance, err)
	}
	if key == "" {
		s.Fatalf("Enroll(%s): no error and no node key", instance)
	}
	node.Key = key
	return node
}

// method is one of the four calls, with arguments that are good for something.
type method struct {
	name string
	data bool // it delivers something that may be refused for good
	call func(ctx context.Context, node extension.Node) error
}

func (s *suite) methods() []method {
	t := s.h.Transport()
	var out []method
	if s.can(Configs) {
		out = append(out, method{"Config", false, func(ctx context.Context, n extension.Node) error {
			_, err := t.Config(ctx, n)
			return err
		}})
	}
	if s.can(Logs) {
		out = append(out, method{"PublishLogs", true, func(ctx context.Context, n extension.Node) error {
			return t.PublishLogs(ctx, n, newBatch(n.Instance, extension.QueueResults, 1, `{"a":"1"}`, `{"a":"2"}`))
		}})
	}
	if s.can(Queries) {
		out = append(out, method{"Queries", false, func(ctx context.Context, n extension.Node) error {
			_, err := t.Queries(ctx, n)
			return err
		}}, method{"WriteResults", true, func(ctx context.Context, n extension.Node) error {
			return t.WriteResults(ctx, n, []extension.Result{{ID: "q1", Rows: []byte(`[{"a":"1"}]`)}})
		}})
	}
	return out
}

// within calls f and fails when it takes longer than the timeout and a little.
func (s *suite) within(what string, timeout time.Duration, f func(ctx context.Context) error) error {
	s.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	late := time.NewTimer(timeout + s.cancelWithin())
	defer late.Stop()
	select {
	case err := <-done:
		return err
	case <-late.C:
		s.Fatalf("%s: has not returned %v after its context ended", what, s.cancelWithin())
		return nil
	}
}

func (s *suite) cancelWithin() time.Duration {
	if s.limits.CancelWithin > 0 {
		return s.limits.CancelWithin
	}
	return 2 * time.Second
}

// must is for a call that has no reason to fail.
func (s *suite) must(what string, f func(ctx context.Context) error) {
	s.Helper()
	if err := s.within(what, callTimeout, f); err != nil {
		s.Fatalf("%s: %v", what, err)
	}
}

func (s *suite) publish(node extension.Node, b extension.Batch) {
	s.Helper()
	s.must("PublishLogs "+b.ID, func(ctx context.Context) error {
		return s.h.Transport().PublishLogs(ctx, node, b)
	})
}

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

// received returns a queue's batches without those that came again. Where the server
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
