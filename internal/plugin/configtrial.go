package plugin

import (
	"context"
	"slices"
	"time"

	"github.com/osqvisor/osqvisor/stats"
)

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

// begin is called under the lock when osqueryd is handed p. anew says that it did not have
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

// prove makes a config the last good one whose probation is over.
func (c *configs) prove() {
	c.mu.Lock()
	passed := c.passed()
	c.mu.Unlock()
	if passed {
		c.tasks.Go(c.keep)
	}
}

// provingChore ends probations in time.
func (c *configs) provingChore() chore {
	return chore{
		due: func() (time.Time, bool) {
			c.mu.Lock()
			defer c.mu.Unlock()
			t := c.trial
			return t.since.Add(c.set.Config.Probation), t.config != nil && !t.since.IsZero()
		},
		do: func(context.Context) { c.prove() },
	}
}

// gone notes that the osqueryd which was handed a config is no more. died says that it ended
// in a way that its config may be to blame for.
func (c *configs) gone(died bool) {
	c.prove()
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
	c.say.Announce(func(h stats.Head) stats.Event {
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
