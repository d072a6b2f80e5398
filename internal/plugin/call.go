package plugin

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/internal/delivery"
	"github.com/osqvisor/osqvisor/internal/guard"
	"github.com/osqvisor/osqvisor/stats"
)

// The calls of a transport, as events name them.
const (
	callConfig  = "config"
	callLogs    = "logs"
	callQueries = "queries"
	callResults = "results"
	callEnroll  = "enroll"
)

// lifetime is the context of everything that is done in the background. Renewing
// it ends what is under way and starts over.
type lifetime struct {
	mu     sync.Mutex
	ctx    context.Context
	cancel context.CancelCauseFunc
	closed bool
}

var (
	errRunEnded = errors.New("the run ended")
	errClosed   = errors.New("the extension is closed")
)

// ended reports whether ctx, which comes from a lifetime, is over because that is: what fails
// then is nobody's failure.
func ended(ctx context.Context) bool {
	cause := context.Cause(ctx)
	return errors.Is(cause, errRunEnded) || errors.Is(cause, errClosed)
}

func newLifetime() *lifetime {
	l := &lifetime{}
	l.ctx, l.cancel = context.WithCancelCause(context.Background())
	return l
}

func (l *lifetime) current() context.Context {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ctx
}

// renew ends the current context; a new one follows unless closed is true.
func (l *lifetime) renew(closed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	l.closed = closed
	if closed {
		l.cancel(errClosed)
		return
	}
	l.cancel(errRunEnded)
	l.ctx, l.cancel = context.WithCancelCause(context.Background())
}

// client is how the rest of the package calls the host's transport: one call of a
// kind at a time, bounded, contained, with the node key, and enrolled again once
// when the server does not know it.
type client struct {
	transport extension.Transport
	node      func() extension.Node
	identity  *identity
	tasks     *guard.Tasks
	events    *guard.Announcer
	busy      map[string]guard.Slot // read only
	calls     callLog
}

// callLog remembers how the calls of each kind went.
type callLog struct {
	mu   sync.Mutex
	last map[string]callState
}

// callState is what the last calls of a kind came to.
type callState struct {
	success time.Time // the last one
	tries   int       // failures in a row
	text    string    // of the last one
	failed  time.Time // when that was
}

// configInForce is what callLog knows the config by that osqueryd should have: one that was
// fetched may still be refused.
const configInForce = "config in force"

// state returns what is known of the calls of a kind.
func (l *callLog) state(kind string) stats.Delivery {
	c := l.of(kind)
	return stats.Delivery{LastSuccess: c.success, LastFailure: c.failed, LastError: c.text, Tries: c.tries}
}

// note notes how a call ended.
func (l *callLog) note(kind string, err error) {
	text := textOf(err)
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.last[kind]
	if err == nil || errors.Is(err, extension.ErrUnsupported) {
		c.success, c.tries = time.Now(), 0
	} else {
		c.tries++
		c.text, c.failed = text, time.Now()
	}
	l.last[kind] = c
}

// textOf returns the text of an error, which code of the host makes.
func textOf(err error) (text string) {
	if err == nil {
		return ""
	}
	if caught := guard.Contain("error text", func() error { text = err.Error(); return nil }); caught != nil {
		return caught.Error()
	}
	return text
}

func (l *callLog) of(kind string) callState {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last[kind]
}

// elsewhere returns when a call of another kind last succeeded.
func (l *callLog) elsewhere(kind string) (at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for k, c := range l.last {
		if k != kind && c.success.After(at) {
			at = c.success
		}
	}
	return at
}

func newClient(s *Settings, t *guard.Tasks, say *guard.Announcer) *client {
	c := &client{transport: s.Transport, node: s.Node, tasks: t, events: say, busy: map[string]guard.Slot{}}
	for _, kind := range []string{callConfig, callQueries, callResults} {
		c.busy[kind] = guard.NewSlot()
	}
	for _, q := range []extension.Queue{extension.QueueResults, extension.QueueSnapshots, extension.QueueStatus} {
		c.busy[callLogs+" "+string(q)] = guard.NewSlot()
	}
	c.calls.last = map[string]callState{}
	c.identity = newIdentity(s, t, say)
	c.identity.note = func(err error) { c.calls.note(callEnroll, err) }
	return c
}

// invoke makes one call; kind names its slot. How it went is noted, unless it was cut off by
// the end of a run.
func invoke[T any](ctx context.Context, c *client, kind string, f func(context.Context, extension.Node) (T, error)) (T, error) {
	v, err := invokeOnce(ctx, c, kind, f)
	if err == nil || !errors.Is(ctx.Err(), context.Canceled) {
		c.calls.note(kind, err)
	}
	return v, err
}

func invokeOnce[T any](ctx context.Context, c *client, kind string, f func(context.Context, extension.Node) (T, error)) (T, error) {
	try := func(key string) (T, error) {
		v, err := guard.Bounded(ctx, c.tasks, c.busy[kind], "transport "+kind, func(ctx context.Context) (T, error) {
			node := c.identity.named(c.node())
			node.Key = key
			return f(ctx, node)
		})
		c.events.AnnouncePanic(err)
		return v, err
	}
	var none T
	key, err := c.identity.key(ctx)
	if err != nil {
		return none, withoutVerdict(err)
	}
	v, err := try(key)
	if err == nil {
		c.identity.keyAccepted(key)
	}
	if !c.identity.canRenew(err) {
		return v, err
	}
	if key, err = c.identity.renew(ctx, key); err != nil {
		return none, withoutVerdict(err)
	}
	v, err = try(key)
	switch {
	case err == nil:
		c.identity.keyAccepted(key)
	case c.identity.canRenew(err):
		c.identity.keyRefused(key)
	}
	return v, err
}

// enrolmentError is the want of a node key.
type enrolmentError struct{ error }

func (e enrolmentError) Unwrap() error { return e.error }

// withoutVerdict keeps the error of an enrolment from being taken for a verdict on the
// call that needed it: logs are not refused for good because an enrolment is.
func withoutVerdict(err error) error {
	if !errors.Is(err, extension.ErrPermanent) && !errors.Is(err, extension.ErrTooLarge) && !errors.Is(err, extension.ErrUnsupported) {
		return enrolmentError{err}
	}
	said := errors.New(err.Error())
	if d := delivery.RetryAfter(err); d > 0 {
		said = extension.RetryAfter(d, said)
	}
	return enrolmentError{said}
}

// gate keeps calls back until a server wants to hear from us again.
type gate struct {
	mu    sync.Mutex
	until time.Time
	err   error // the last one
}

// note remembers the wait that err requests.
func (g *gate) note(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.until, g.err = time.Time{}, err
	if d := delivery.RetryAfter(err); d > 0 {
		g.until = time.Now().Add(d)
	}
}

// closed returns an error while the wait lasts: the one that requested it, with what
// is left.
func (g *gate) closed() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	left := time.Until(g.until)
	if left <= 0 {
		return nil
	}
	err := g.err
	var r *extension.RetryAfterError
	if errors.As(err, &r) {
		err = r.Err
	}
	return extension.RetryAfter(left.Round(time.Millisecond), err)
}
