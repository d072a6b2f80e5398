package main

import (
	"context"
	"errors"
	"sync"
)

// errStarted means that Start was called while the service runs.
var errStarted = errors.New("the service is started already")

// Service puts Start and Stop around a function that runs until its context ends, such
// as Runner.Run, for hosts whose service manager wants it so. Its methods may be called
// from any goroutine, in any order. Make one with NewService.
type Service struct {
	run func(ctx context.Context) error

	mu   sync.Mutex
	stop context.CancelFunc // nil unless started
	done chan struct{}      // closed when run has returned, and err is set
	err  error
}

// NewService makes a Service of run, which is called once a start.
func NewService(run func(ctx context.Context) error) *Service {
	return &Service{run: run}
}

// Start returns once run is under way. It does not wait for what run makes to be ready:
// see Runner.WaitReady. ctx bounds the start alone, as with service managers; the values
// in it reach run. It fails when the service is started already, and with the context's
// cause when ctx has ended. A service that
// was stopped may be started again; so may one that ended by itself, after a Stop, which
// has the reason.
func (s *Service) Start(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stop != nil {
		return errStarted
	}
	runCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
	s.stop, s.done, s.err = stop, make(chan struct{}), nil
	begun, done := make(chan struct{}), s.done
	go func() {
		defer stop()
		defer close(done)
		close(begun)
		s.err = s.run(runCtx) // read after done alone
	}()
	<-begun
	return nil
}

// Stop ends run and returns when everything of it is gone, with what run returned.
// It does nothing when the service was never started, or is stopped. When ctx ends
// first, it returns the cause; the stop goes on, and a further Stop waits for it.
func (s *Service) Stop(ctx context.Context) error {
	s.mu.Lock()
	stop, done := s.stop, s.done
	s.mu.Unlock()
	if stop == nil {
		return nil
	}
	stop()
	select {
	case <-done:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.done == done { // else another Stop was quicker, and a Start after it
		s.stop = nil
		return s.err
	}
	return nil
}

// Done is closed when run has returned, requested or not: nil before the first Start.
func (s *Service) Done() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.done
}
