package plugin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/internal/delivery"
	"github.com/osqvisor/osqvisor/internal/guard"
	"github.com/osqvisor/osqvisor/stats"
)

// maxKept bounds the file of the last good config.
const maxKept = 256 << 20

// keptConfig is the file of the last good config.
type keptConfig struct {
	// Sources is as it was before the policy; nil when no config is good yet.
	Sources map[string]string `json:"sources"`
	// Hash is that of the sources after the policy.
	Hash string `json:"hash,omitempty"`
	// SetAside holds the hashes of configs that are not served any more.
	SetAside []string `json:"set_aside,omitempty"`
}

func (c *configs) path() string { return filepath.Join(c.set.Dir, "config.json") }

// keep writes the last good config to disk, unless it is there, or there is no source that
// could fail one day.
func (c *configs) keep() {
	if c.set.silent || c.keeping.Take(c.life.current()) != nil {
		return
	}
	defer c.keeping.Free()
	c.mu.Lock()
	stored, edits := c.stored, c.edits
	stored.SetAside = slices.Clone(stored.SetAside)
	wanted := c.kept != edits
	c.mu.Unlock()
	if !wanted {
		return
	}
	data, err := json.Marshal(stored)
	if err == nil {
		err = delivery.WriteFileAtomic(c.path(), data)
	}
	if err != nil {
		c.events.Warn("the last good config could not be kept; the next fetch tries again", "error", err)
		return
	}
	c.mu.Lock()
	c.kept = edits
	c.mu.Unlock()
}

// lastGood returns the last good config; nil when there is none. What is on disk is
// checked again, and goes through the policy, which may be another one now.
func (c *configs) lastGood(ctx context.Context) *prepared {
	if err := c.load(); err != nil {
		c.events.Warn("the last good config on disk cannot be read", "error", err)
		return nil
	}
	c.mu.Lock()
	good, sources := c.good, c.stored.Sources
	c.mu.Unlock()
	if good != nil || sources == nil {
		return good
	}
	good, err := c.fetch.prepare(ctx, sources)
	if err != nil {
		c.events.Warn("the last good config on disk cannot be used", "error", err)
		return nil // what failed now may be good at the next look
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.good == nil {
		c.good = good
	}
	return c.good
}

// loadSoon reads what is on disk, and does not wait for a disk that hangs.
func (c *configs) loadSoon() {
	c.mu.Lock()
	loaded := c.loaded
	c.mu.Unlock()
	if loaded || c.set.silent {
		return
	}
	ctx, cancel := context.WithTimeout(c.life.current(), guard.ReturnGrace)
	defer cancel()
	if c.loading.Take(ctx) != nil {
		return
	}
	done := make(chan struct{})
	c.tasks.Go(func() {
		defer close(done)
		defer c.loading.Free()
		if err := c.load(); err != nil {
			c.events.Warn("the last good config on disk cannot be read", "error", err)
		}
	})
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// load reads what is on disk, once.
func (c *configs) load() error {
	c.mu.Lock()
	loaded := c.loaded
	c.mu.Unlock()
	if loaded || c.set.silent {
		return nil
	}
	found, err := readKept(c.path())
	if err != nil && !errors.As(err, new(*json.SyntaxError)) { // that one is for ever
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.loaded {
		return nil
	}
	c.loaded = true
	if c.stored.Sources == nil { // nothing newer has proved good
		c.stored.Sources, c.stored.Hash = found.Sources, found.Hash
	}
	c.stored.SetAside = append(found.SetAside, c.stored.SetAside...)
	return err
}

func readKept(path string) (keptConfig, error) {
	data, err := delivery.ReadFileBounded(path, maxKept)
	if errors.Is(err, fs.ErrNotExist) {
		return keptConfig{}, nil
	}
	if err != nil {
		return keptConfig{}, err
	}
	var kept keptConfig
	if err := json.Unmarshal(data, &kept); err != nil {
		return keptConfig{}, fmt.Errorf("read %s: %w", path, err)
	}
	return kept, nil
}

// announceChanges announces what was removed from a config, and what osqueryd will not use of it.
func (c *configs) announceChanges(p *prepared) {
	for _, o := range p.stripped {
		c.events.Announce(func(h stats.Head) stats.Event {
			return stats.OptionStripped{Head: h, Source: o.Source, Option: o.Option, Reason: o.Reason}
		})
	}
	for _, part := range p.ignored {
		c.events.Announce(func(h stats.Head) stats.Event {
			return stats.ConfigPartIgnored{Head: h, Source: part.Source, Path: part.Path, Reason: part.Reason}
		})
	}
}

// retryLater makes the extension call the source again, because osqueryd, content
// with the last good config, does so only at its next refresh.
func (c *configs) retryLater() {
	c.mu.Lock()
	c.retry = time.Now().Add(c.retrying.NextBackOff())
	c.mu.Unlock()
	c.wake()
}

// enrolled calls the source at once for a config that osqueryd waits for: it could not be had
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

// job calls the source again while osqueryd has a stale config.
func (c *configs) job() job {
	return job{
		due: func() (time.Time, bool) {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.retry, !c.retry.IsZero() && c.flight == nil
		},
		do: c.again,
	}
}

func (c *configs) again(ctx context.Context) {
	f := c.startFetch()
	_, err := c.join(ctx, f)
	if err != nil && !errors.Is(err, extension.ErrConfigSetAside) {
		if ctx.Err() == nil {
			c.retryLater()
		}
		return
	}
	c.mu.Lock()
	c.retry = time.Time{}
	late := f.late // then land delivers it
	c.mu.Unlock()
	if _, pending := c.pending(); pending && !late {
		c.deliverLate(ctx)
	}
}

// deliverLate hands the host the newest config, which osqueryd should have had.
func (c *configs) deliverLate(ctx context.Context) {
	if c.set.LateConfig == nil || c.hook.Take(ctx) != nil {
		return
	}
	defer c.hook.Free()
	config, pending := c.pending()
	if !pending {
		return
	}
	_ = c.events.Contain("late config hook", func() error {
		c.set.LateConfig(config)
		return nil
	})
}
