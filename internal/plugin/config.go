package plugin

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/osquery/osquery-go/gen/osquery"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/internal/delivery"
	"github.com/osqvisor/osqvisor/internal/guard"
	"github.com/osqvisor/osqvisor/stats"
)

// configs is the config plugin: it passes osqueryd what the source returns, or the
// last good config when the source fails or is slow.
type configs struct {
	set     *Settings
	fetch   *fetcher
	events  *guard.Announcer
	tasks   *guard.Tasks
	life    *lifetime
	wake    func()
	hook    guard.Slot // one late hook at a time
	keeping guard.Slot // one writer of the last good config at a time
	loading guard.Slot // one reader of it at a time

	mu        sync.Mutex
	newest    *prepared       // what the source had last, unless it is set aside; nil when there is none
	trial     probation       // of what osqueryd was handed, until it is the last good one
	good      *prepared       // the last good config; nil when there is none, or it was not needed yet
	loaded    bool            // stored was read from the disk
	stored    keptConfig      // what the disk should have
	edits     int             // counts the changes of stored
	kept      int             // edits when it was written last
	handed    string          // hash of what osqueryd has, as far as we know
	served    string          // hash that the last event was about
	announced string          // hash of the config whose changes were announced last
	known     map[string]bool // sources that osqueryd was handed
	flight    *configFlight
	retry     time.Time // when to call the source again because osqueryd has a stale config
	retrying  *backoff.ExponentialBackOff
}

// maxKnown bounds how many names of sources are remembered.
const maxKnown = 1024

// configFlight is one fetch under way; everybody who wants a config joins it.
type configFlight struct {
	done   chan struct{}
	config *prepared
	err    error
	landed bool // guarded by configs.mu
	late   bool // osqueryd was answered without it; guarded by configs.mu
}

func newConfigs(s *Settings, f *fetcher, t *guard.Tasks, life *lifetime, say *guard.Announcer, wake func()) *configs {
	return &configs{
		set: s, fetch: f, events: say, tasks: t, life: life, wake: wake,
		hook: guard.NewSlot(), keeping: guard.NewSlot(), loading: guard.NewSlot(),
		known: map[string]bool{}, retrying: delivery.NewBackoff(s.Logs.Delivery.FirstWait, s.Logs.Delivery.LongestWait),
	}
}

// setWaits replaces the waits between tries, from the next failure on.
func (c *configs) setWaits(d extension.Delivery) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.retrying = delivery.NewBackoff(d.FirstWait, d.LongestWait)
}

// registered means that osqueryd may be a new one, which has no config.
func (c *configs) registered() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.handed = ""
}

// call answers osqueryd.
func (c *configs) call(ctx context.Context, req map[string]string) osquery.ExtensionResponse {
	switch req["action"] {
	case "genConfig":
		return c.genConfig(ctx)
	case "genPack":
		return c.genPack(req["name"])
	default:
		return failure("unknown action: " + req["action"])
	}
}

func (c *configs) genConfig(ctx context.Context) osquery.ExtensionResponse {
	wait, cancel := context.WithTimeout(ctx, c.set.Config.Timeout)
	defer cancel()
	config, err := c.join(wait, c.startFetch())
	if err == nil {
		return success(c.serve(c.latest(config), false))
	}
	// The wait may be used up, but the last good config is at hand.
	local, cancelLocal := context.WithTimeout(context.WithoutCancel(ctx), c.set.Config.Timeout)
	defer cancelLocal()
	old := c.fallback(local)
	if errors.Is(err, extension.ErrConfigSetAside) {
		// The source has answered, and nothing gets better by calling it sooner.
		if old == nil {
			old = &prepared{blank: true, hash: "nothing"}
		}
		return success(c.serve(old, true))
	}
	c.mu.Lock()
	has := old != nil && c.handed == old.hash
	c.mu.Unlock()
	if errors.As(err, new(enrolmentError)) {
		c.retryLater() // once there is a node key, the config is to follow at once
	}
	if old == nil || has {
		// osqueryd keeps what it has, and fetches again sooner.
		return failure("error getting config: " + err.Error())
	}
	c.retryLater()
	return success(c.serve(old, true))
}

// latest returns p, or what was fetched after it: osqueryd may have been pushed that meanwhile,
// and must not go back.
func (c *configs) latest(p *prepared) *prepared {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.newest != nil {
		return c.newest
	}
	return p
}

// startFetch starts a fetch, or returns the one under way.
func (c *configs) startFetch() *configFlight {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.flight != nil {
		return c.flight
	}
	f := &configFlight{done: make(chan struct{})}
	c.flight = f
	c.tasks.Go(func() { c.fetchOnce(f) })
	return f
}

// fetchOnce fetches, and hands what came too late to the host.
func (c *configs) fetchOnce(f *configFlight) {
	life := c.life.current()
	c.loadSoon() // or what is set aside would be served
	ctx, cancel := context.WithTimeout(life, c.set.delivery().Timeout)
	f.config, f.err = c.fetch.config(ctx)
	cancel()
	if f.err == nil || !ended(life) {
		c.fetch.client.calls.note(configInForce, f.err)
	}
	if f.err == nil && c.fresh(f.config) {
		c.announceChanges(f.config)
	}
	late := c.finish(f) // before the disk is waited for: osqueryd waits for this
	c.wake()            // while it lasted, nobody waited for the time of the next one
	c.keep()            // if it failed before
	if late {
		c.deliverLate(life)
	}
}

// fresh reports whether p is another config than the one before.
func (c *configs) fresh(p *prepared) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	other := c.announced != p.hash
	c.announced = p.hash
	return other
}

// finish ends a flight and reports whether its config is one that osqueryd should
// have had.
func (c *configs) finish(f *configFlight) (late bool) {
	defer close(f.done)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.flight, f.landed = nil, true
	if f.err == nil && c.isAside(f.config) {
		f.err = extension.ErrConfigSetAside
	}
	if f.err != nil && !errors.Is(f.err, extension.ErrConfigSetAside) {
		return false
	}
	c.retry = time.Time{}
	c.retrying.Reset()
	if f.err != nil {
		return false
	}
	c.newest = f.config
	return f.late && f.config.hash != c.handed
}

// wait waits until the flight has ended or ctx has.
func (f *configFlight) wait(ctx context.Context) error {
	select {
	case <-f.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// join waits for a fetch. When ctx ends first, the fetch goes on.
func (c *configs) join(ctx context.Context, f *configFlight) (*prepared, error) {
	select {
	case <-f.done:
		return f.config, f.err
	case <-ctx.Done():
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.landed {
		return f.config, f.err
	}
	f.late = true
	return nil, errors.Join(errors.New("the config source is slow"), ctx.Err())
}

// serve notes that osqueryd gets a config, and returns that: sources
// that are gone are sent as {}, for osqueryd would keep them.
func (c *configs) serve(p *prepared, stale bool) map[string]string {
	out, bytes := c.complete(p), 0
	for _, text := range out {
		bytes += len(text)
	}
	c.mu.Lock()
	changed := c.served != p.hash
	c.begin(p, c.handed != p.hash)
	c.handed, c.served = p.hash, p.hash
	if len(c.known)+len(p.sources) > maxKnown {
		c.known = map[string]bool{}
	}
	for source := range p.sources {
		c.known[source] = true
	}
	c.mu.Unlock()
	c.set.Counters.Config()
	if c.set.Config.Probation == 0 {
		c.endProbation()
	}
	c.wake() // its probation has an end
	if changed {
		c.events.Announce(func(h stats.Head) stats.Event {
			return stats.ConfigServed{Head: h, Bytes: bytes, Sources: len(p.sources), Stale: stale}
		})
	}
	return out
}

// complete returns a copy of the sources, with those that are gone.
func (c *configs) complete(p *prepared) map[string]string {
	out := map[string]string{}
	maps.Copy(out, p.sources)
	c.mu.Lock()
	defer c.mu.Unlock()
	for source := range c.known {
		if _, ok := out[source]; !ok {
			out[source] = "{}"
		}
	}
	if len(out) == 0 {
		out[c.set.Name] = "{}"
	}
	return out
}

// fetchNow is FetchConfig.
func (c *configs) fetchNow(ctx context.Context) (map[string]string, bool, error) {
	c.mu.Lock()
	earlier := c.flight
	c.mu.Unlock()
	if earlier != nil {
		// It may have been called before what the host wants to push was there.
		if err := earlier.wait(ctx); err != nil {
			return nil, false, err
		}
	}
	f := c.startFetch()
	if err := f.wait(ctx); err != nil {
		return nil, false, err
	}
	if f.err != nil {
		return nil, false, f.err
	}
	c.mu.Lock()
	changed := c.handed != f.config.hash
	c.mu.Unlock()
	return c.complete(f.config), changed, nil
}

// pending returns the newest config, if osqueryd has another one.
func (c *configs) pending() (config map[string]string, is bool) {
	c.mu.Lock()
	p := c.newest
	is = p != nil && p.hash != c.handed
	c.mu.Unlock()
	if !is {
		return nil, false
	}
	return c.complete(p), true
}

// delivered notes that osqueryd accepted config by its update call.
func (c *configs) delivered(config map[string]string) {
	c.mu.Lock()
	p := c.newest
	c.mu.Unlock()
	if p == nil || !maps.Equal(c.complete(p), config) {
		// It is not the newest any more, and osqueryd may have had that already.
		c.mu.Lock()
		c.handed = ""
		c.mu.Unlock()
		return
	}
	c.serve(p, false)
}

// genPack answers for a pack that a config only names. Packs that the transport
// knows are part of the config already, so it is unknown.
func (c *configs) genPack(name string) osquery.ExtensionResponse {
	c.events.Announce(func(h stats.Head) stats.Event {
		return stats.ConfigRefused{Head: h, Source: "pack " + name, Err: errNoPackSource}
	})
	return success(map[string]string{name: ""})
}

var errNoPackSource = errors.New("the config names a pack, and the transport is no PackSource that could resolve it")

// maxTrialDeaths is how often osqueryd may die within the probation of a config before it is
// set aside: once can be chance.
const maxTrialDeaths = 2

// maxSetAside bounds how many configs are remembered as set aside; the oldest is forgotten.
const maxSetAside = 16

// probation is that of the newest config which osqueryd was handed, until osqueryd has run with
// it for a while: then it becomes the last good one.
type probation struct {
	config *prepared // nil when there is none
	since  time.Time // when the osqueryd of now was handed it; zero when there is no such
	deaths int
}

// begin is called under the lock when osqueryd gets p. anew means that it did not have
// it already.
func (c *configs) begin(p *prepared, anew bool) {
	switch {
	case p.blank, p.hash == c.goodHash():
		c.trial = probation{}
	case len(p.sources) == 0: // nothing in it can end osqueryd
		c.trial = probation{config: p, since: time.Now().Add(-c.set.Config.Probation)}
	case c.trial.config == nil || c.trial.config.hash != p.hash:
		c.trial = probation{config: p, since: time.Now()}
	case anew:
		c.trial.since = time.Now()
	}
}

// goodHash is called under the lock. It returns the hash of the last good config.
func (c *configs) goodHash() string {
	if c.good != nil {
		return c.good.hash
	}
	return c.stored.Hash
}

// passed is called under the lock. It ends a probation that is over, and reports whether it was.
func (c *configs) passed() bool {
	t := c.trial
	if t.config == nil || t.since.IsZero() || time.Since(t.since) < c.set.Config.Probation {
		return false
	}
	c.trial = probation{}
	c.good, c.stored.Sources, c.stored.Hash = t.config, t.config.before.sources, t.config.hash
	c.edits++
	return true
}

// endProbation makes a config the last good one whose probation is over.
func (c *configs) endProbation() {
	c.mu.Lock()
	passed := c.passed()
	c.mu.Unlock()
	if passed {
		c.tasks.Go(c.keep)
	}
}

// probationJob ends probations in time.
func (c *configs) probationJob() job {
	return job{
		due: func() (time.Time, bool) {
			c.mu.Lock()
			defer c.mu.Unlock()
			t := c.trial
			return t.since.Add(c.set.Config.Probation), t.config != nil && !t.since.IsZero()
		},
		do: func(context.Context) { c.endProbation() },
	}
}

// gone notes that the osqueryd which got a config is no more. died means that it ended
// in a way that its config may be to blame for.
func (c *configs) gone(died bool) {
	c.endProbation()
	c.mu.Lock()
	t := &c.trial
	had := t.config != nil && !t.since.IsZero()
	c.handed, t.since = "", time.Time{}
	if !died || !had {
		c.mu.Unlock()
		return
	}
	if t.deaths++; t.deaths < maxTrialDeaths {
		c.mu.Unlock()
		return
	}
	p, deaths := t.config, t.deaths
	c.setAside(p)
	c.mu.Unlock()
	c.tasks.Go(c.keep)
	c.events.Announce(func(h stats.Head) stats.Event {
		return stats.ConfigSetAside{Head: h, Hash: p.hash, Sources: len(p.sources), Deaths: deaths}
	})
}

// setAside is called under the lock.
func (c *configs) setAside(p *prepared) {
	c.trial = probation{}
	if c.newest != nil && c.newest.hash == p.hash {
		c.newest = nil
	}
	c.stored.SetAside = append(c.stored.SetAside, p.hash)
	c.stored.SetAside = c.stored.SetAside[max(0, len(c.stored.SetAside)-maxSetAside):]
	c.edits++
}

// isAside is called under the lock.
func (c *configs) isAside(p *prepared) bool { return slices.Contains(c.stored.SetAside, p.hash) }

// fallback returns what osqueryd gets when the source has nothing for it: the config that it had,
// unless it died with it, else the last good one, else whatever there is; nil when there is none.
func (c *configs) fallback(ctx context.Context) *prepared {
	c.mu.Lock()
	trial, newest := c.trial, c.newest
	c.mu.Unlock()
	if trial.config != nil && trial.deaths == 0 {
		return trial.config
	}
	if good := c.lastGood(ctx); good != nil {
		return good
	}
	if newest == nil {
		return trial.config
	}
	return newest
}
