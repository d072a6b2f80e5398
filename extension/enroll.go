package extension

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/osqvisor/osqvisor/stats"
)

// identity keeps the node key. At most one enrolment is under way, however many
// calls wait for it; after a failure the next waits out a backoff, and until then
// calls fail at once rather than hold up osqueryd.
type identity struct {
	enroller Enroller // nil: the transport does not enrol
	store    NodeKeyStore
	node     func() Node
	details  func(context.Context) map[string]map[string]string
	timeout  time.Duration
	tasks    *tasks
	say      *announcer
	life     *lifetime
	busy     slot

	mu      sync.Mutex
	loaded  bool // the store was read, or is behind
	keyless bool // the transport enrols nobody, and takes calls without a key
	current string
	stale   string // a key that the server refused
	flight  *enrolFlight
	backoff *backoff.ExponentialBackOff
	blocked time.Time
	lastErr error
}

// enrolFlight is one enrolment under way.
type enrolFlight struct {
	done chan struct{}
	key  string
	err  error
}

func newIdentity(s *settings, t *tasks, say *announcer) *identity {
	enroller, _ := s.transport.(Enroller)
	return &identity{
		enroller: enroller, store: s.keys, node: s.node, details: s.hostDetails,
		timeout: s.transportTimeout, tasks: t, say: say, busy: newSlot(),
		backoff: newBackoff(s.log.minBackoff, s.log.maxBackoff),
	}
}

// newBackoff makes an exponential backoff with jitter that never gives up.
func newBackoff(first, longest time.Duration) *backoff.ExponentialBackOff {
	return backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(first), backoff.WithMaxInterval(longest),
		backoff.WithRandomizationFactor(0.3), backoff.WithMultiplier(2), backoff.WithMaxElapsedTime(0))
}

// canRenew tells whether err asks for a new key that can be had.
func (i *identity) canRenew(err error) bool {
	if i.enroller == nil || !errors.Is(err, ErrNodeInvalid) {
		return false
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	return !i.keyless
}

// key gives the node key, enrolling if there is none.
func (i *identity) key(ctx context.Context) (string, error) {
	if i.enroller == nil {
		return "", nil
	}
	return i.renew(ctx, "")
}

// renew gives a key other than bad, which the server refused.
func (i *identity) renew(ctx context.Context, bad string) (string, error) {
	i.mu.Lock()
	if bad != "" && i.current == bad {
		i.current, i.stale = "", bad
	}
	if i.current != "" || i.keyless {
		defer i.mu.Unlock()
		return i.current, nil
	}
	f, err := i.fly()
	i.mu.Unlock()
	if err != nil {
		return "", err
	}
	select {
	case <-f.done:
		return f.key, f.err
	case <-ctx.Done():
		return "", fmt.Errorf("enrolment is still under way: %w", ctx.Err())
	}
}

// fly joins the enrolment under way or starts one; i.mu is held.
func (i *identity) fly() (*enrolFlight, error) {
	if i.flight != nil {
		return i.flight, nil
	}
	if left := time.Until(i.blocked); left > 0 {
		return nil, RetryAfter(left, fmt.Errorf("enrolment failed and waits: %w", i.lastErr))
	}
	f := &enrolFlight{done: make(chan struct{})}
	i.flight = f
	stale, loaded := i.stale, i.loaded
	i.tasks.start(func() { i.land(f, stale, loaded) })
	return f, nil
}

// land does what the flight is for, and settles it.
func (i *identity) land(f *enrolFlight, stale string, loaded bool) {
	ctx, cancel := context.WithTimeout(i.life.current(), i.timeout)
	defer cancel()
	fromStore := false
	if !loaded {
		f.key, loaded = i.load(ctx)
		fromStore = f.key != "" && f.key != stale
	}
	if !fromStore {
		f.key, f.err = i.enrol(ctx)
	}
	if errors.Is(f.err, ErrUnsupported) {
		f.err = nil
		i.goKeyless()
	}
	cutOff := f.err != nil && ended(ctx)
	wait := i.settle(f, loaded, cutOff)
	switch {
	case cutOff:
	case f.err != nil:
		i.say.say(func(h stats.Head) stats.Event {
			return stats.TransportFailed{Head: h, Call: callEnroll, Err: f.err, Retry: wait}
		})
	case !fromStore && f.key != "":
		i.save(ctx, f.key)
		i.say.say(func(h stats.Head) stats.Event { return stats.Enrolled{Head: h, Again: stale != ""} })
	}
	close(f.done)
}

func (i *identity) goKeyless() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keyless = true
}

// settle notes how the flight ended and gives the wait before the next one. One that was
// cut off by the end of a run asks for no wait.
func (i *identity) settle(f *enrolFlight, loaded, cutOff bool) time.Duration {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.flight, i.loaded = nil, loaded || f.err == nil
	switch {
	case f.err == nil:
		i.current = f.key
		return 0
	case cutOff:
		return 0
	default:
		return i.block(f.err)
	}
}

// block holds up the next enrolment; i.mu is held.
func (i *identity) block(err error) time.Duration {
	wait := i.backoff.NextBackOff()
	if d := retryAfter(err); d > 0 {
		wait = d
	}
	i.blocked, i.lastErr = time.Now().Add(wait), err
	return wait
}

// refused says that the server does not accept a key it has just given out: to
// enrol again at once would go round in circles.
func (i *identity) refused(key string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.current == key {
		i.current, i.stale = "", key
		i.block(fmt.Errorf("a new node key was refused at once: %w", ErrNodeInvalid))
	}
}

// accepted says that the server works with the key: the next failure starts a new backoff.
func (i *identity) accepted() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.backoff.Reset()
}

// load gives the key that is kept, and whether the store could be read.
func (i *identity) load(ctx context.Context) (key string, read bool) {
	key, err := bounded(ctx, i.tasks, i.busy, "node key store", i.store.Load)
	i.say.caught(err)
	if err != nil {
		i.say.warn("the node key could not be read; enrolling again", "error", err)
		return "", false
	}
	return key, true
}

func (i *identity) save(ctx context.Context, key string) {
	_, err := bounded(ctx, i.tasks, i.busy, "node key store", func(ctx context.Context) (struct{}, error) {
		return struct{}{}, i.store.Save(ctx, key)
	})
	i.say.caught(err)
	if err != nil {
		i.say.warn("the node key could not be kept; the next start enrols again", "error", err)
	}
}

func (i *identity) enrol(ctx context.Context) (string, error) {
	key, err := bounded(ctx, i.tasks, i.busy, "transport "+callEnroll, func(ctx context.Context) (string, error) {
		return i.enroller.Enroll(ctx, i.request(ctx))
	})
	i.say.caught(err)
	if err == nil && key == "" {
		err = errors.New("the server gave an empty node key")
	}
	if err != nil {
		return "", fmt.Errorf("enrol: %w", err)
	}
	return key, nil
}

func (i *identity) request(ctx context.Context) EnrollRequest {
	req := EnrollRequest{Node: i.node(), PlatformType: platformType(runtime.GOOS)}
	req.Node.Key = ""
	if i.details != nil {
		req.HostDetails = i.details(ctx)
	}
	return req
}

// platformType gives osquery's bitmask for a system as Go names it.
func platformType(goos string) int {
	const posix, windows, bsd, linux, macos = 1, 2, 4, 8, 16
	switch goos {
	case "windows":
		return windows
	case "linux":
		return posix | linux
	case "darwin":
		return posix | bsd | macos
	default:
		return posix | bsd
	}
}
