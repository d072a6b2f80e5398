package osquerydtest

import (
	"crypto/sha1" //nolint:gosec // osqueryd's config hash
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// configState is what osqueryd knows from its config sources. It is safe for
// concurrent use; updates are made one at a time.
type configState struct {
	w        *worker
	updating sync.Mutex // one refresh or update at a time; never held by readers

	mu         sync.Mutex
	packs      []*pack
	hashes     map[string]string
	decorators map[string]decorators // by source
	options    map[string]any        // merged; options stay when a source drops them
	valid      bool
	interval   time.Duration // of refreshes, unscaled
	tried      bool
}

func newConfigState(w *worker) *configState {
	return &configState{
		w: w, hashes: map[string]string{}, decorators: map[string]decorators{}, options: map[string]any{},
	}
}

func (w *worker) loadConfig() {
	c := w.config
	c.mu.Lock()
	c.interval = w.p.flags.seconds("config_refresh")
	c.mu.Unlock()
	err := c.refresh()
	switch {
	case w.checking():
		w.finishCheck(err)
	case err != nil:
		w.p.log.warn("init.cpp:759", "Error reading config: %s", err)
	}
}

// finishCheck ends --config_check with the status. --config_dump that finds no
// config does not end: osqueryd goes on as a daemon.
func (w *worker) finishCheck(err error) {
	switch {
	case err == nil:
		w.p.requestStop(0)
	case !w.p.flags.bool("config_check"):
		w.p.log.warn("init.cpp:760", "Error reading config: %s", err)
	default:
		fmt.Fprintf(w.p.stderr, "Error reading config: %s\n", err)
		w.p.requestStop(1)
	}
}

// refresh asks the config plugin, and applies its answer.
func (c *configState) refresh() error {
	c.updating.Lock()
	defer c.updating.Unlock()
	c.w.count.refreshes.Add(1)
	res := c.w.registry.callActive("config", map[string]string{"action": "genConfig"})
	first := c.paceRefresh(res.code == 0)
	if res.code != 0 {
		if first && c.w.p.flags.bool("config_enable_backup") {
			c.w.p.log.info("config.cpp:536", "Backing up configuration")
			_ = c.update(c.restoreBackup())
		}
		return errors.New(res.message)
	}
	if len(res.rows) == 0 {
		return nil
	}
	if c.w.p.flags.bool("config_dump") {
		for _, source := range slices.Sorted(maps.Keys(res.rows[0])) {
			fmt.Fprintf(c.w.p.stdout, "{\"%s\": %s}\n", source, res.rows[0][source])
		}
		return nil
	}
	return c.update(res.rows[0])
}

// paceRefresh goes to the accelerated interval after a failure, and back.
func (c *configState) paceRefresh(ok bool) (first bool) {
	flags := c.w.p.flags
	c.mu.Lock()
	defer c.mu.Unlock()
	normal := flags.seconds("config_refresh")
	switch {
	case ok:
		c.valid, c.interval = true, normal
	case normal > 0 && c.interval == normal:
		c.interval = flags.seconds("config_accelerated_refresh")
	}
	first, c.tried = !c.tried, true
	return first
}

// refreshLoop runs only when refreshing was asked for at the start.
func (c *configState) refreshLoop() {
	p := c.w.p
	if c.pause() == 0 {
		return
	}
	for p.sleep(p.script.period(max(c.pause(), time.Second))) {
		p.log.debug("config.cpp:1130", "Refreshing configuration state")
		_ = c.refresh() // shown by osquery_info and the log
	}
}

func (c *configState) pause() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.interval
}

// update applies sources in order of their names; the first failure ends it.
func (c *configState) update(sources map[string]string) error {
	for _, source := range slices.Sorted(maps.Keys(sources)) {
		if err := c.updateSource(source, sources[source]); err != nil {
			c.w.p.log.error("config.cpp:931", "updateSource failed to parse config, of source: %s and content: %s", source, sources[source])
			return err
		}
	}
	if c.w.p.flags.bool("config_enable_backup") {
		c.backup(sources)
	}
	c.w.sched.wake()
	return nil
}

// updateSource replaces all of one source. Broken JSON has wiped the source's
// schedule by the time it is noticed, and its hash is remembered.
func (c *configState) updateSource(source, text string) error {
	if !c.remember(source, text) {
		return nil // unchanged
	}
	c.mu.Lock()
	c.packs = slices.DeleteFunc(c.packs, func(p *pack) bool { return p.source == source })
	c.mu.Unlock()
	doc, err := parseConfig(text)
	if err != nil {
		return err
	}
	if schedule, ok := doc["schedule"].(map[string]any); ok {
		c.addPack("main", source, map[string]any{"queries": schedule})
	}
	if packs, ok := doc["packs"].(map[string]any); ok {
		for _, name := range slices.Sorted(maps.Keys(packs)) {
			c.addPackValue(name, source, packs[name])
		}
	}
	c.applyParsers(source, doc)
	return nil
}

func (c *configState) remember(source, text string) (changed bool) {
	sum := sha1.Sum([]byte(text)) //nolint:gosec // osqueryd's config hash
	hash := hex.EncodeToString(sum[:])
	c.mu.Lock()
	defer c.mu.Unlock()
	changed = c.hashes[source] != hash
	c.hashes[source] = hash
	return changed
}

// hash is the SHA-1 of the sources' hashes; empty while nothing was loaded.
func (c *configState) hash() (string, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.valid {
		return "", false
	}
	var all strings.Builder
	for _, source := range slices.Sorted(maps.Keys(c.hashes)) {
		all.WriteString(c.hashes[source])
	}
	sum := sha1.Sum([]byte(all.String())) //nolint:gosec // osqueryd's config hash
	return hex.EncodeToString(sum[:]), true
}

const backupPrefix = "config_persistence."

func (c *configState) backup(sources map[string]string) {
	db := c.w.db
	for _, key := range db.keys(domainSettings, backupPrefix) {
		if _, keep := sources[strings.TrimPrefix(key, backupPrefix)]; !keep {
			_ = db.remove(domainSettings, key)
		}
	}
	for source, text := range sources {
		_ = db.put(domainSettings, backupPrefix+source, text)
	}
}

func (c *configState) restoreBackup() map[string]string {
	c.w.p.log.info("config.cpp:610", "Restoring backed up config from the database")
	out := map[string]string{}
	for _, key := range c.w.db.keys(domainSettings, backupPrefix) {
		out[strings.TrimPrefix(key, backupPrefix)], _ = c.w.db.get(domainSettings, key)
	}
	return out
}
