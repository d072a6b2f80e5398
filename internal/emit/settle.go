package emit

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// What Settle fails with.
var (
	errSlow  = errors.New("an observer took too long; its context was ended, and what waited behind it was dropped")
	errStuck = errors.New("an observer does not return although its context ended")
	errFull  = errors.New("an observer is slower than its events come; the oldest were dropped for want of room")
)

// Settle waits until everything that was emitted before it is delivered, for at
// most the time of patience. Then the context of the observer that runs is
// cancelled, what is queued is dropped, and the observer has as long again to
// return. Once it has returned nil, or an error that is not about an observer that does
// not return, nothing emitted before runs in an observer. One that does not return
// is waited for once; until it does, Settle fails at once. It also tells, once, of the
// events that were dropped for want of room. Called from within an observer, with its
// context, it does nothing.
func (e *Emitter) Settle(ctx context.Context, patience time.Duration) error {
	if insideOf(ctx, e) {
		return nil
	}
	return errors.Join(e.settle(patience), e.overflow())
}

func (e *Emitter) settle(patience time.Duration) error {
	over, stuck := e.awaitNow()
	if stuck {
		return fmt.Errorf("%w; %d events were dropped", errStuck, e.interrupt())
	}
	if within(over, patience) {
		return nil
	}
	dropped := e.interrupt()
	if within(over, patience) {
		return fmt.Errorf("%w: %d events", errSlow, dropped)
	}
	e.giveUpOn()
	return fmt.Errorf("%w; %d events were dropped", errStuck, dropped)
}

// overflow tells of what was dropped for want of room since it last did.
func (e *Emitter) overflow() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := e.untold
	e.untold = 0
	if n == 0 {
		return nil
	}
	return fmt.Errorf("%w: %d events", errFull, n)
}

// awaitNow gives what to wait for, unless it is known to be in vain.
func (e *Emitter) awaitNow() (over <-chan struct{}, stuck bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.stuck {
		return nil, true
	}
	return e.await(e.pushed), false
}

// interrupt ends the observers' context and makes a new one for what comes later.
func (e *Emitter) interrupt() (dropped int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.round++
	e.cancel()
	if !e.closed {
		e.base, e.cancel = context.WithCancel(e.parent)
	}
	return e.drain()
}

// giveUpOn notes that the observer that runs is not to be waited for again.
func (e *Emitter) giveUpOn() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.stuck = e.current != 0
}

func within(over <-chan struct{}, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-over:
		return true
	case <-timer.C:
		return false
	}
}
