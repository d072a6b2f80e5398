package fakeosqueryd

import (
	"bytes"
	"crypto/sha1" //nolint:gosec // osqueryd's config hash
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/osquery/osquery-go/gen/osquery"
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

// refresh calls the config plugin, and applies its answer.
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
	for p.sleep(p.conf.period(max(c.pause(), time.Second))) {
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

const (
	maxConfigSize  = 1 << 20
	maxConfigDepth = 32
)

// osqueryd's texts.
//
//nolint:revive,staticcheck // its case and its punctuation
var (
	errConfigJSON  = errors.New("Error parsing the config JSON")
	errConfigDepth = errors.New("Error validating the config JSON: Configuration has too many nesting levels!")
)

// parseConfig strips comments and checks size, syntax and depth.
func parseConfig(text string) (map[string]any, error) {
	text = stripComments(text)
	if len(text) > maxConfigSize {
		return nil, fmt.Errorf("%w: the config size exceeds the limit of %d bytes", errConfigJSON, maxConfigSize)
	}
	doc, err := parseObject(text)
	if err != nil {
		return nil, errConfigJSON
	}
	if depthOf(doc) > maxConfigDepth {
		return nil, errConfigDepth
	}
	return doc, nil
}

func parseObject(text string) (map[string]any, error) {
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	var doc map[string]any
	if err := dec.Decode(&doc); err != nil {
		return nil, err
	}
	if doc == nil || dec.More() {
		return nil, errConfigJSON
	}
	return doc, nil
}

func stripComments(text string) string {
	var out strings.Builder
	for line := range strings.Lines(strings.ReplaceAll(text, "\\\n", "")) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, "//") {
			out.WriteString(line + "\n")
		}
	}
	return out.String()
}

func depthOf(v any) int {
	deepest := 0
	switch v := v.(type) {
	case map[string]any:
		for _, e := range v {
			deepest = max(deepest, depthOf(e))
		}
	case []any:
		for _, e := range v {
			deepest = max(deepest, depthOf(e))
		}
	}
	return deepest + 1
}

// applyParsers takes options and decorators from a config or a pack.
func (c *configState) applyParsers(source string, doc map[string]any) {
	if options, ok := doc["options"].(map[string]any); ok {
		c.mu.Lock()
		maps.Copy(c.options, options)
		merged := maps.Clone(c.options)
		c.mu.Unlock()
		c.applyOptions(merged)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.decorators[source] = parseDecorators(doc["decorators"])
}

func (c *configState) applyOptions(options map[string]any) {
	p := c.w.p
	for _, name := range slices.Sorted(maps.Keys(options)) {
		value := optionText(options[name])
		if value == "" || name == "" {
			continue
		}
		if strings.HasPrefix(name, "custom_") {
			p.flags.setCustom(name, value)
			continue
		}
		f, known := p.flags.lookup(name)
		_, alias := flagAliases[name]
		switch {
		case !known:
			p.log.warn("options.cpp:101", "Cannot set unknown or invalid flag: %s", name)
		case f.group == groupCLI && !alias:
			p.log.warn("options.cpp:106", "The CLI only flag --%s set via config file will be ignored, please use a "+
				"flagfile or pass it to the process at startup", name)
		case f.group != groupGflags:
			_ = p.flags.set(name, value) // gflags keeps the old value of an illegal new one
		}
	}
	p.log.configure(p.flags)
}

func optionText(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case bool:
		return strconv.FormatBool(v)
	case json.Number:
		if f, err := v.Float64(); err == nil && strings.ContainsAny(v.String(), ".eE") {
			return strconv.FormatUint(uint64(max(f, 0)), 10)
		}
		return v.String()
	case nil:
		return ""
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(v)
	return strings.TrimSpace(b.String())
}

// call is the config registry as peers see it: update, option and genConfig of
// core's own plugins.
func (c *configState) call(name string, req map[string]string) result {
	if !slices.Contains(builtinPlugins["config"], name) {
		return failure("Cannot call registry item: %s", name)
	}
	switch req["action"] {
	case "genConfig":
		return c.generate(name)
	case "update":
		source, hasSource := req["source"]
		data, hasData := req["data"]
		if !hasSource || !hasData {
			return failure("Missing source or data")
		}
		c.updating.Lock()
		defer c.updating.Unlock()
		return plain(c.update(map[string]string{source: data}))
	case "option":
		return result{message: "OK", rows: osquery.ExtensionPluginResponse{{"name": req["name"], "value": c.w.p.flags.str(req["name"])}}}
	case "genPack":
		return c.generatePack(name, req)
	case "":
		return failure("Config plugins require an action")
	}
	return failure("Config plugin action unknown: %s", req["action"])
}

// generate is the filesystem plugin: config_path and the files of config_path.d.
func (c *configState) generate(name string) result {
	if name != "filesystem" {
		return result{message: "OK", rows: osquery.ExtensionPluginResponse{{}}}
	}
	path := c.w.p.flags.str("config_path")
	files, _ := filepath.Glob(path + ".d/*.conf")
	sources := map[string]string{}
	for _, f := range append([]string{path}, files...) {
		raw, err := os.ReadFile(f)
		if err != nil {
			return failure("config file does not exist: %s", f)
		}
		sources[f] = string(raw)
	}
	return result{message: "OK", rows: osquery.ExtensionPluginResponse{sources}}
}

// generatePack is the filesystem plugin's: the value names a file, and for the
// pack "*" a pattern of files, each a pack that is called like its file.
func (c *configState) generatePack(plugin string, req map[string]string) result {
	name, hasName := req["name"]
	value, hasValue := req["value"]
	if !hasName || !hasValue {
		return failure("Missing name or value")
	}
	text, err := "", fmt.Errorf("Not implemented") //nolint:staticcheck // osqueryd's text
	switch {
	case plugin != "filesystem":
	case name == "*":
		text, err = c.multiPack(value), nil
	default:
		text, err = readPack(value)
	}
	res := result{message: "OK", rows: osquery.ExtensionPluginResponse{{name: text}}}
	if err != nil {
		res.code, res.message = 1, err.Error()
	}
	return res
}

func readPack(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() {
		return "", fmt.Errorf("%s is not a valid path", path)
	}
	raw, err := os.ReadFile(path)
	return string(raw), err
}

// multiPack leaves out, with a word, what cannot be read.
func (c *configState) multiPack(pattern string) string {
	log := c.w.p.log
	files, _ := filepath.Glob(strings.ReplaceAll(pattern, "%", "*")) // a bad pattern matches nothing
	var packs []field
	for _, path := range files {
		raw, err := os.ReadFile(path)
		if err != nil {
			log.warn("filesystem_config.cpp:145", "Cannot read multi-pack file: %s", path)
			continue
		}
		doc, err := parseObject(stripComments(string(raw)))
		if err != nil {
			log.warn("filesystem_config.cpp:157", "Cannot read multi-pack JSON: %s", path)
			continue
		}
		name := filepath.Base(path)
		packs = append(packs, field{strings.TrimSuffix(name, filepath.Ext(name)), doc})
	}
	return object(packs)
}
