package plugin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/internal/delivery"
	"github.com/osqvisor/osqvisor/internal/guard"
	"github.com/osqvisor/osqvisor/stats"
)

// identity keeps the node key. At most one enrolment is under way, however many
// calls wait for it; after a failure the next waits out a backoff, and until then
// calls fail at once rather than hold up osqueryd. Once a call wanted a key, the
// extension goes on enrolling by itself.
type identity struct {
	enroller extension.Enroller // nil: the transport does not enrol
	store    extension.NodeKeyStore
	node     func() extension.Node
	callNode func() (extension.Node, error) // node, contained
	nameFile string                         // of the identity that the key is for
	details  func(context.Context) map[string]map[string]string
	waits    func() extension.Delivery // in force
	tasks    *guard.Tasks
	events   *guard.Announcer
	note     func(error) // how an enrolment went
	life     *lifetime
	busy     guard.Slot
	interval time.Duration // Enrolment.Interval
	pace     *EnrollPace
	wake     func()
	enrolled func() // called after an enrolment that went well

	mu      sync.Mutex
	loaded  bool // the store was read, or is behind
	keyless bool // the transport enrols nobody, and takes calls without a key
	current string
	name    string    // the host identifier that enrolled; empty when it is not known
	born    time.Time // when current was issued; zero when it is from the store
	fresh   bool      // current is new, and no call has been made with it yet that went well
	short   int       // keys in a row that did not last
	stale   string    // a key that the server refused
	flight  *enrolFlight
	wanted  bool // a call was turned away for want of a key
	backoff *backoff.ExponentialBackOff
	turn    time.Time // when our enrolment is, if it has to wait for its turn
	blocked time.Time
	lastErr error
}

const (
	// lastingKey is how long a key has to be good for its end to be no sign of trouble.
	lastingKey = time.Hour
	// slowestEnrolment bounds how often the interval between enrolments doubles.
	slowestEnrolment = 5
)

// errPaced means that others enrol just now.
var errPaced = errors.New("enrolments are spread out, and this one has its turn later")

// enrolFlight is one enrolment under way.
type enrolFlight struct {
	done chan struct{}
	key  string
	name string // who the key is for
	err  error
}

func newIdentity(s *Settings, t *guard.Tasks, say *guard.Announcer) *identity {
	enroller, _ := s.Transport.(extension.Enroller)
	return &identity{
		enroller: enroller, store: s.Keys, node: s.Node, callNode: s.callNode, details: s.HostDetails,
		nameFile: filepath.Join(s.Dir, "enrolled_as"),
		waits:    s.delivery, tasks: t, events: say, busy: guard.NewSlot(),
		backoff:  delivery.NewBackoff(s.Logs.Delivery.FirstWait, s.Logs.Delivery.LongestWait),
		interval: s.Enrolment.Interval, pace: s.Pace, wake: func() {}, enrolled: func() {},
	}
}

// setWaits replaces the waits between enrolments that fail, from the next failure on.
func (i *identity) setWaits(d extension.Delivery) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.backoff = delivery.NewBackoff(d.FirstWait, d.LongestWait)
}

// canRenew reports whether err calls for a new key that can be had.
func (i *identity) canRenew(err error) bool {
	if i.enroller == nil || !errors.Is(err, extension.ErrNodeInvalid) {
		return false
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	return !i.keyless
}

// key returns the node key, enrolling if there is none.
func (i *identity) key(ctx context.Context) (string, error) {
	if i.enroller == nil {
		return "", nil
	}
	return i.renew(ctx, "")
}

// renew returns a key other than bad, which the server refused.
func (i *identity) renew(ctx context.Context, bad string) (string, error) {
	i.keyRefused(bad)
	i.leave()
	i.mu.Lock()
	if i.current != "" || i.keyless {
		defer i.mu.Unlock()
		return i.current, nil
	}
	f, err := i.startEnrolment()
	i.mu.Unlock()
	if err != nil {
		i.wake() // for the time when it may be tried again
		return "", err
	}
	select {
	case <-f.done:
		return f.key, f.err
	case <-ctx.Done():
		return "", fmt.Errorf("enrolment is still under way: %w", ctx.Err())
	}
}

// startEnrolment joins the enrolment under way or starts one; i.mu is held.
func (i *identity) startEnrolment() (*enrolFlight, error) {
	if i.flight != nil {
		return i.flight, nil
	}
	if left := time.Until(i.blocked); left > 0 {
		i.wanted = true
		return nil, extension.RetryAfter(left, fmt.Errorf("enrolment waits: %w", i.lastErr))
	}
	f := &enrolFlight{done: make(chan struct{})}
	i.flight = f
	stale, loaded := i.stale, i.loaded
	i.tasks.Go(func() { i.enrolOnce(f, stale, loaded) })
	return f, nil
}

// enrolOnce does what the flight is for, and settles it.
func (i *identity) enrolOnce(f *enrolFlight, stale string, loaded bool) {
	ctx, cancel := context.WithTimeout(i.life.current(), i.waits().Timeout)
	defer cancel()
	fromStore := false
	if !loaded {
		f.key, f.name, loaded = i.load(ctx)
		fromStore = f.key != "" && f.key != stale && !i.isOther(f.name)
	}
	if !fromStore {
		f.key, f.name, f.err = i.enrolInTurn(ctx)
	}
	if errors.Is(f.err, extension.ErrUnsupported) {
		f.err = nil
		i.goKeyless()
	}
	cutOff := f.err != nil && ended(ctx)
	wait := i.finish(f, loaded, fromStore, cutOff)
	switch {
	case cutOff, errors.Is(f.err, errPaced):
	case f.err != nil:
		i.failed(f.err, wait)
	case !fromStore && f.key != "":
		i.save(ctx, f.key, f.name)
		i.events.Announce(func(h stats.Head) stats.Event { return stats.Enrolled{Head: h, Again: stale != ""} })
	}
	close(f.done)
	if f.err == nil {
		i.note(nil)
		i.enrolled()
	}
	i.wake() // the time of the next one may be another now
}

func (i *identity) failed(err error, wait time.Duration) {
	i.note(err)
	i.events.Announce(func(h stats.Head) stats.Event {
		return stats.TransportFailed{Head: h, Call: callEnroll, Err: err, Retry: wait}
	})
}

// enrolInTurn enrols, unless others that share our pace are first.
func (i *identity) enrolInTurn(ctx context.Context) (key, name string, err error) {
	if wait := i.waitForTurn(time.Now()); wait > 0 {
		return "", "", extension.RetryAfter(wait, errPaced)
	}
	return i.enrol(ctx)
}

// waitForTurn returns the wait until our turn. A turn that was not used in time is lost: many
// of them at once, after a sleep of the machine, would be what the pace is there against.
func (i *identity) waitForTurn(now time.Time) time.Duration {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.turn.IsZero() || now.Sub(i.turn) > i.pace.every {
		i.turn = i.pace.reserve(now)
	}
	wait := i.turn.Sub(now)
	if wait <= 0 {
		i.turn = time.Time{}
	}
	return wait
}

// job enrols when a call that was turned away could have its key.
func (i *identity) job() job {
	return job{
		due: func() (time.Time, bool) {
			i.mu.Lock()
			defer i.mu.Unlock()
			return i.blocked, i.wanted && i.current == "" && i.flight == nil && !i.keyless
		},
		do: func(ctx context.Context) { _, _ = i.renew(ctx, "") },
	}
}

func (i *identity) goKeyless() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keyless = true
}

// finish notes how the flight ended and returns the wait before the next one. One that was
// cut off by the end of a run requires no wait.
func (i *identity) finish(f *enrolFlight, loaded, fromStore, cutOff bool) time.Duration {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.flight, i.loaded, i.wanted = nil, loaded || f.err == nil, f.err != nil && !cutOff
	switch {
	case f.err == nil:
		i.current, i.name, i.fresh, i.born = f.key, f.name, false, time.Time{}
		if !fromStore {
			i.fresh, i.born = true, time.Now()
		}
		return 0
	case cutOff:
		return 0
	case errors.Is(f.err, errPaced):
		return i.hold(delivery.RetryAfter(f.err), errPaced)
	default:
		return i.block(f.err)
	}
}

// block holds up the next enrolment; i.mu is held.
func (i *identity) block(err error) time.Duration {
	wait := i.backoff.NextBackOff()
	if d := delivery.RetryAfter(err); d > 0 {
		wait = d
	}
	return i.hold(wait, err)
}

// hold keeps enrolments back; i.mu is held.
func (i *identity) hold(wait time.Duration, err error) time.Duration {
	i.blocked, i.lastErr = time.Now().Add(wait), err
	return wait
}

// keyRefused forgets a key that the server does not accept.
func (i *identity) keyRefused(key string) {
	i.mu.Lock()
	if key == "" || i.current != key {
		i.mu.Unlock()
		return
	}
	i.current, i.stale, i.wanted = "", key, true
	wait, err := i.restAfterLoss(time.Since(i.born))
	i.mu.Unlock()
	if err != nil {
		i.failed(err, wait)
	}
}

// restAfterLoss keeps the next enrolment back when the key, issued so long ago, did not
// last: to enrol again at once would go round in circles. i.mu is held.
func (i *identity) restAfterLoss(age time.Duration) (time.Duration, error) {
	if i.fresh {
		err := fmt.Errorf("a new node key was refused at once: %w", extension.ErrNodeInvalid)
		return i.block(err), err
	}
	if age > lastingKey {
		i.short = 0
		return 0, nil
	}
	i.short++
	wait := i.interval<<min(i.short-1, slowestEnrolment)/2 - age
	if i.short == 1 || wait <= 0 {
		return 0, nil
	}
	err := fmt.Errorf("the server has refused %d node keys in a row soon after it gave them out; "+
		"another host may enrol as the same node: %w", i.short, extension.ErrNodeInvalid)
	return i.hold(wait, err), err
}

// keyAccepted means that the server works with the key: the next failure starts a new backoff.
func (i *identity) keyAccepted(key string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.current == key {
		i.fresh = false
	}
	i.backoff.Reset()
}

// leave forgets a key that is another identity's: osqueryd logs under a new name, because the
// host set one or its database is new, and what enrols is to be what logs.
func (i *identity) leave() {
	i.mu.Lock()
	key, name := i.current, i.name
	i.mu.Unlock()
	if key == "" || !i.isOther(name) {
		return
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.current == key {
		i.current, i.stale = "", key
	}
}

// isOther reports whether name is not the one that osqueryd logs under. What is not known is
// no other.
func (i *identity) isOther(name string) bool {
	node, err := i.callNode()
	return err == nil && name != "" && node.HostIdentifier != "" && node.HostIdentifier != name
}

// named fills in who a node enrolled as, when that is not known now.
func (i *identity) named(n extension.Node) extension.Node {
	if n.HostIdentifier == "" {
		i.mu.Lock()
		defer i.mu.Unlock()
		n.HostIdentifier = i.name
	}
	return n
}

// load returns the key that is kept, who it is for, and whether the store could be read.
func (i *identity) load(ctx context.Context) (key, name string, read bool) {
	key, err := guard.Bounded(ctx, i.tasks, i.busy, "node key store", i.store.Load)
	i.events.AnnouncePanic(err)
	if err != nil {
		i.events.Warn("the node key could not be read; enrolling again", "error", err)
		return "", "", false
	}
	if data, err := delivery.ReadFileBounded(i.nameFile, maxNodeKey); err == nil {
		name = strings.TrimSuffix(string(data), "\n")
	}
	return key, name, true
}

// save keeps the key and who it is for. The name is written first: a name without its key is
// of no consequence, a key under an old name would be.
func (i *identity) save(ctx context.Context, key, name string) {
	if err := delivery.WriteFileAtomic(i.nameFile, []byte(name+"\n")); err != nil {
		i.events.Warn("the name that enrolled could not be kept", "error", err)
	}
	_, err := guard.Bounded(ctx, i.tasks, i.busy, "node key store", func(ctx context.Context) (struct{}, error) {
		return struct{}{}, i.store.Save(ctx, key)
	})
	i.events.AnnouncePanic(err)
	if err != nil {
		i.events.Warn("the node key could not be kept; the next start enrols again", "error", err)
	}
}

func (i *identity) enrol(ctx context.Context) (key, name string, err error) {
	type answer struct{ key, name string }
	got, err := guard.Bounded(ctx, i.tasks, i.busy, "transport "+callEnroll, func(ctx context.Context) (answer, error) {
		req := i.request(ctx)
		key, err := i.enroller.Enroll(ctx, req)
		return answer{key, req.Node.HostIdentifier}, err
	})
	i.events.AnnouncePanic(err)
	if err == nil && got.key == "" {
		err = errors.New("the server gave an empty node key")
	}
	if err != nil {
		return "", "", fmt.Errorf("enrol: %w", err)
	}
	return got.key, got.name, nil
}

func (i *identity) request(ctx context.Context) extension.EnrollRequest {
	req := extension.EnrollRequest{Node: i.node(), PlatformType: platformType(runtime.GOOS)}
	req.Node.Key = ""
	if i.details != nil {
		req.HostDetails = i.details(ctx)
	}
	if req.Node.HostIdentifier == "" { // osqueryd could be queried just now
		req.Node.HostIdentifier = req.HostDetails["osquery_info"]["instance_id"]
	}
	return req
}

// platformType returns osquery's bitmask for a system as Go names it.
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

// DefaultEnrollRate is how many enrolments a minute instances make together unless they are
// set to another pace. Servers limit them by address; osctrl, for one, to 20.
const DefaultEnrollRate = 15

// EnrollPace lets a number of enrolments through in any minute: a third of them at once,
// the others evenly spread. It may be shared by any number of extensions.
type EnrollPace struct {
	every time.Duration
	ahead time.Duration // how far next may be ahead of the clock

	mu   sync.Mutex
	next time.Time
}

// NewEnrollPace makes a pace of so many enrolments a minute; less than 1 counts as 1.
func NewEnrollPace(perMinute int) *EnrollPace {
	perMinute = max(1, perMinute)
	burst := max(1, perMinute/3)
	every := time.Minute / time.Duration(max(1, perMinute-burst))
	return &EnrollPace{every: every, ahead: time.Duration(burst-1) * every}
}

// reserve returns the time of the next enrolment that is free, and takes it.
func (p *EnrollPace) reserve(now time.Time) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	at := now
	if free := p.next.Add(-p.ahead); free.After(now) {
		at = free
	}
	if p.next.Before(now) {
		p.next = now
	}
	p.next = p.next.Add(p.every)
	return at
}

// maxNodeKey bounds the file; real keys have some 30 to 600 bytes.
const maxNodeKey = 64 << 10

// fileKeyStore keeps the key in a file of the instance's directory.
type fileKeyStore struct{ path string }

func newFileKeyStore(dir string) fileKeyStore {
	return fileKeyStore{path: filepath.Join(dir, "node_key")}
}

func (f fileKeyStore) Load(context.Context) (string, error) {
	b, err := delivery.ReadFileBounded(f.path, maxNodeKey)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return strings.TrimSpace(string(b)), err
}

func (f fileKeyStore) Save(_ context.Context, key string) error {
	return delivery.WriteFileAtomic(f.path, []byte(key+"\n"))
}
