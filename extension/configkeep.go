package extension

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/osqvisor/osqvisor/stats"
)

// maxKept bounds the file of the last good config.
const maxKept = 256 << 20

// keptConfig is the file of the last good config.
type keptConfig struct {
	Sources map[string]string `json:"sources"`
}

func (c *configs) path() string { return filepath.Join(c.set.dir, "config.json") }

// keep writes the last good config to disk, as it was before the policy, unless it is
// there, a later one has taken its place meanwhile, or there is no source that could
// fail one day.
func (c *configs) keep(p *prepared) {
	if c.set.silent || c.keeping.take(c.life.current()) != nil {
		return
	}
	defer c.keeping.free()
	c.mu.Lock()
	wanted := c.good == p && c.kept != p.before.hash
	c.mu.Unlock()
	if !wanted {
		return
	}
	data, err := json.Marshal(keptConfig{Sources: p.before.sources})
	if err == nil {
		err = writeFileAtomic(c.path(), data)
	}
	if err != nil {
		c.say.warn("the last good config could not be kept; the next fetch tries again", "error", err)
		return
	}
	c.mu.Lock()
	c.kept = p.before.hash
	c.mu.Unlock()
}

// lastGood gives the last good config; nil when there is none. What is on disk is
// checked again, and goes through the policy, which may be another one now.
func (c *configs) lastGood(ctx context.Context) *prepared {
	c.mu.Lock()
	good, loaded := c.good, c.loaded
	c.mu.Unlock()
	if loaded {
		return good
	}
	good, err := c.loadKept(ctx)
	if err != nil {
		c.say.warn("the last good config on disk cannot be used", "error", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.loaded && err == nil { // what failed now may be good at the next look
		c.good, c.loaded = good, true
		if good != nil {
			c.kept = good.before.hash
		}
	}
	if c.good == nil {
		return good
	}
	return c.good
}

func (c *configs) loadKept(ctx context.Context) (*prepared, error) {
	data, err := readFileBounded(c.path(), maxKept)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var kept keptConfig
	if err := json.Unmarshal(data, &kept); err != nil {
		return nil, fmt.Errorf("read %s: %w", c.path(), err)
	}
	return c.fetch.prepare(ctx, kept.Sources)
}

// announceChanges tells what was taken out of a config, and what osqueryd will not use of it.
func (c *configs) announceChanges(p *prepared) {
	for _, o := range p.stripped {
		c.say.say(func(h stats.Head) stats.Event {
			return stats.OptionStripped{Head: h, Source: o.source, Option: o.option, Reason: o.reason}
		})
	}
	for _, part := range p.ignored {
		c.say.say(func(h stats.Head) stats.Event {
			return stats.ConfigPartIgnored{Head: h, Source: part.Source, Path: part.Path, Reason: part.Reason}
		})
	}
}

// retryLater makes the extension ask the source again, because osqueryd, content
// with the last good config, does so only at its next refresh.
func (c *configs) retryLater() {
	c.mu.Lock()
	c.retry = time.Now().Add(c.retrying.NextBackOff())
	c.mu.Unlock()
	c.wake()
}

// enrolled asks the source at once for a config that osqueryd waits for: it could not be had
// without a node key.
func (c *configs) enrolled() {
	c.mu.Lock()
	waits := !c.retry.IsZero()
	if waits {
		c.retry = time.Now()
		c.retrying.Reset()
	}
	c.mu.Unlock()
	if waits {
		c.wake()
	}
}

// chore asks the source again while osqueryd has a stale config.
func (c *configs) chore() chore {
	return chore{
		due: func() (time.Time, bool) {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.retry, !c.retry.IsZero() && c.flight == nil
		},
		do: c.again,
	}
}

func (c *configs) again(ctx context.Context) {
	f := c.launch()
	if _, err := c.join(ctx, f); err != nil {
		if ctx.Err() == nil {
			c.retryLater()
		}
		return
	}
	c.mu.Lock()
	c.retry = time.Time{}
	stale := f.config.hash != c.handed && !f.late
	c.mu.Unlock()
	if stale {
		c.deliverLate(ctx, f.config)
	}
}

// deliverLate hands the host a config that osqueryd should have had.
func (c *configs) deliverLate(ctx context.Context, p *prepared) {
	if c.set.lateConfig == nil || c.hook.take(ctx) != nil {
		return
	}
	defer c.hook.free()
	_ = c.say.guard("late config hook", func() error {
		c.set.lateConfig(c.complete(p))
		return nil
	})
}
