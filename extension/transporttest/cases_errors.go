package transporttest

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"time"

	"github.com/osqvisor/osqvisor/extension"
)

const shortWait = 50 * time.Millisecond

// surface: a failure is an error, a plain one, and the next call works again.
func surface(s *suite) {
	node := s.node("surface")
	for _, m := range s.methods() {
		err := s.failed(m, node, Failure{Kind: Temporary})
		var after *extension.RetryAfterError
		if errors.Is(err, extension.ErrNodeInvalid) || errors.Is(err, extension.ErrPermanent) ||
			errors.Is(err, extension.ErrUnsupported) || errors.As(err, &after) {
			s.Errorf("%s: a temporary failure came as %v", m.name, err)
		}
		s.must(m.name+" after a failure", func(ctx context.Context) error { return m.call(ctx, node) })
	}
}

// failed makes a method fail and returns the error.
func (s *suite) failed(m method, node extension.Node, f Failure) error {
	s.Helper()
	s.h.FailNext(f, 1)
	err := s.within(m.name, callTimeout, func(ctx context.Context) error { return m.call(ctx, node) })
	if err == nil {
		s.Fatalf("%s: nil although the server failed (%s)", m.name, f.Kind)
	}
	return err
}

// retryAfter: the server's word on when to come back arrives.
func retryAfter(s *suite) {
	node := s.node("retry-after")
	for _, m := range s.methods() {
		err := s.failed(m, node, Failure{Kind: RetryAfter, After: 7 * time.Second})
		var after *extension.RetryAfterError
		if !errors.As(err, &after) {
			s.Errorf("%s: %v is no RetryAfterError", m.name, err)
			continue
		}
		// A date in whole seconds may round either way.
		if after.After < 5*time.Second || after.After > 8*time.Second {
			s.Errorf("%s: RetryAfterError.After is %v, want 7s", m.name, after.After)
		}
	}
}

// nodeInvalid: a refused node key is distinguished, and a new one works.
func nodeInvalid(s *suite) {
	node := s.node("node-invalid")
	for _, m := range s.methods() {
		if err := s.failed(m, node, Failure{Kind: NodeInvalid}); !errors.Is(err, extension.ErrNodeInvalid) {
			s.Errorf("%s: %v is no ErrNodeInvalid", m.name, err)
		}
		again := s.node("node-invalid")
		s.must(m.name+" after enrolling again", func(ctx context.Context) error { return m.call(ctx, again) })
	}
}

// permanent: data that will be refused again is distinguished.
func permanent(s *suite) {
	node := s.node("permanent")
	for _, m := range s.methods() {
		if !m.data {
			continue
		}
		if err := s.failed(m, node, Failure{Kind: Permanent}); !errors.Is(err, extension.ErrPermanent) {
			s.Errorf("%s: %v is no ErrPermanent", m.name, err)
		}
		s.must(m.name+" after a refusal", func(ctx context.Context) error { return m.call(ctx, node) })
	}
}

// tooLarge: a batch that the server did not take because of its size is distinguished,
// nothing of it is there, and its halves pass under ids of their own. A single line
// may also be refused for good.
func tooLarge(s *suite) {
	node := s.node("too-large")
	publish := method{"PublishLogs", true, nil}
	try := func(b extension.Batch) error {
		publish.call = func(ctx context.Context, n extension.Node) error { return s.h.Transport().PublishLogs(ctx, n, b) }
		return s.failed(publish, node, Failure{Kind: TooLarge})
	}
	lines := []string{`{"a":"1"}`, `{"a":"2"}`, `{"a":"3"}`, `{"a":"4"}`}
	if err := try(newBatch("too-large", extension.QueueResults, 1, lines...)); !errors.Is(err, extension.ErrTooLarge) {
		s.Errorf("PublishLogs: %v is no ErrTooLarge", err)
	}
	err := try(newBatch("too-large", extension.QueueResults, 1, lines[0]))
	if !errors.Is(err, extension.ErrTooLarge) && !errors.Is(err, extension.ErrPermanent) {
		s.Errorf("PublishLogs of one line: %v is neither ErrTooLarge nor ErrPermanent", err)
	}
	if got := s.h.Received("too-large"); len(got) != 0 {
		s.Fatalf("the server took %d batches that it found too large", len(got))
	}
	want := []extension.Batch{
		newBatch("too-large", extension.QueueResults, 1, lines[:2]...),
		newBatch("too-large", extension.QueueResults, 3, lines[2:]...),
	}
	for _, b := range want {
		s.publish(node, clone(b))
	}
	s.same("too-large", s.received("too-large", extension.QueueResults), want)
}

// cancellation: a call returns when its context ends, and the next one works.
func cancellation(s *suite) {
	node := s.node("cancel")
	for _, m := range s.methods() {
		s.h.FailNext(Failure{Kind: Hang}, 1)
		err := s.within(m.name, shortWait, func(ctx context.Context) error { return m.call(ctx, node) })
		if err == nil {
			s.Errorf("%s: nil although the context ended before the answer", m.name)
		}
		s.h.FailNext(Failure{}, 0) // it may have been too slow to reach the server
		s.must(m.name+" after a cancelled call", func(ctx context.Context) error { return m.call(ctx, node) })
	}
}

// ended: a context that is over already is an error, at once.
func ended(s *suite) {
	node := s.node("ended")
	for _, m := range s.methods() {
		err := s.within(m.name, callTimeout, func(context.Context) error {
			over, cancel := context.WithCancel(context.Background())
			cancel()
			return m.call(over, node)
		})
		if err == nil {
			s.Errorf("%s: nil although its context was over before the call", m.name)
		}
	}
}

const cancelled = 32

// goroutines: cancelled calls leave none behind.
func goroutines(s *suite) {
	node := s.node("goroutines")
	methods := s.methods()
	for _, m := range methods {
		s.must(m.name, func(ctx context.Context) error { return m.call(ctx, node) })
	}
	before := runtime.NumGoroutine()
	s.h.FailNext(Failure{Kind: Hang}, cancelled)
	var calls sync.WaitGroup
	for i := range cancelled {
		calls.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 2*shortWait)
			defer cancel()
			_ = methods[i%len(methods)].call(ctx, node)
		})
	}
	s.must("cancelled calls", func(context.Context) error { calls.Wait(); return nil })
	s.h.FailNext(Failure{}, 0)
	spare := s.limits.SpareGoroutines
	if spare == 0 {
		spare = 8
	}
	if left := s.settled(before+spare, 3*time.Second); left > before+spare {
		s.Errorf("%d goroutines before and %d after %d cancelled calls", before, left, cancelled)
	}
}

// settled waits until no more than limit goroutines are left, within bounds.
func (s *suite) settled(limit int, timeout time.Duration) int {
	idle, _ := s.h.Transport().(interface{ CloseIdleConnections() })
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	over := time.NewTimer(timeout)
	defer over.Stop()
	for {
		if idle != nil {
			idle.CloseIdleConnections()
		}
		if n := runtime.NumGoroutine(); n <= limit {
			return n
		}
		select {
		case <-tick.C:
		case <-over.C:
			return runtime.NumGoroutine()
		}
	}
}
