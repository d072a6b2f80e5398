package fakeosqueryd

import (
	"cmp"
	"encoding/json"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

const maxQueryInterval = 604800

// pack is a group of scheduled queries; the schedule itself is the pack main.
type pack struct {
	name, source      string
	platform, version string
	shard             int64
	active            bool
	queries           []*scheduledQuery
}

// scheduledQuery is one entry of the schedule.
type scheduledQuery struct {
	fullName   string
	Query      string
	Interval   int64 // seconds
	splayed    int64
	snapshot   bool
	removed    bool
	denylist   bool
	priority   int64 // startup_priority; noPriority when not given
	denylisted bool  // filled in by the scheduler
}

const noPriority = int64(^uint64(0) >> 1)

func (c *configState) addPackValue(name, source string, v any) {
	switch v := v.(type) {
	case map[string]any:
		c.addNamed(name, source, v)
	case string:
		c.genPack(name, source, v)
	}
}

// addNamed knows the multi-pack "*".
func (c *configState) addNamed(name, source string, doc map[string]any) {
	if name != "*" {
		c.addPack(name, source, doc)
		return
	}
	for _, inner := range slices.Sorted(maps.Keys(doc)) {
		obj, ok := doc[inner].(map[string]any)
		if !ok {
			c.w.p.log.warn("config.cpp:345", "Error parsing pack: %s: the value should be an object", inner)
			continue
		}
		c.addPack(inner, source, obj)
	}
}

// genPack calls the config plugin for a pack that the config names by a string.
func (c *configState) genPack(name, source, value string) {
	res := c.w.registry.callActive("config", map[string]string{"action": "genPack", "name": name, "value": value})
	if len(res.rows) == 0 {
		return
	}
	text, ok := res.rows[0][name]
	switch {
	case !ok:
	case text == "":
		c.w.p.log.warn("config.cpp:834", "Error reading the query pack named: %s", name)
	default:
		doc, err := parseObject(stripComments(text))
		if err != nil {
			c.w.p.log.warn("config.cpp:841", "Error parsing the \"%s\" pack JSON", name)
			return
		}
		c.addNamed(name, source, doc)
	}
}

// addPack replaces a pack of the same name and source. Options of a pack apply,
// too.
func (c *configState) addPack(name, source string, doc map[string]any) {
	p := c.parsePack(name, source, doc)
	c.mu.Lock()
	c.packs = slices.DeleteFunc(c.packs, func(o *pack) bool { return o.name == name && o.source == source })
	c.packs = append(c.packs, p)
	c.mu.Unlock()
	if p.active && name != "main" {
		c.applyParsers(source+c.w.p.flags.str("pack_delimiter")+name, doc)
	}
}

func (c *configState) parsePack(name, source string, doc map[string]any) *pack {
	p := &pack{name: name, source: source, platform: text(doc["platform"]), version: text(doc["version"]), shard: number(doc["shard"], 0)}
	if !platformMatches(p.platform) || !versionMatches(p.version, c.w.p.conf.version()) {
		return p
	}
	p.active = c.discovered(doc["discovery"])
	queries, _ := doc["queries"].(map[string]any)
	for _, q := range slices.Sorted(maps.Keys(queries)) {
		if obj, ok := queries[q].(map[string]any); ok {
			if sq := c.parseQuery(name, q, obj); sq != nil {
				p.queries = append(p.queries, sq)
			}
		}
	}
	slices.SortStableFunc(p.queries, func(a, b *scheduledQuery) int { return cmp.Compare(a.priority, b.priority) })
	return p
}

// discovered runs the discovery queries: each must give a row.
func (c *configState) discovered(v any) bool {
	list, _ := v.([]any)
	for _, q := range list {
		got, err := c.w.sql.query(text(q))
		if err != nil {
			c.w.p.log.warn("packs.cpp:392", "Discovery query failed (%s): %s", text(q), err)
		}
		if err != nil || len(got) == 0 {
			return false
		}
	}
	return true
}

func (c *configState) parseQuery(packName, name string, obj map[string]any) *scheduledQuery {
	flags := c.w.p.flags
	if !platformMatches(text(obj["platform"])) || !versionMatches(text(obj["version"]), c.w.p.conf.version()) {
		return nil
	}
	q := &scheduledQuery{
		fullName: name, Query: text(obj["query"]), Interval: number(obj["interval"], flags.num("schedule_default_interval")),
		snapshot: truth(obj["snapshot"], false), removed: truth(obj["removed"], true), denylist: truth(obj["denylist"], true),
		priority: number(obj["startup_priority"], noPriority),
	}
	if packName != "main" {
		d := flags.str("pack_delimiter")
		q.fullName = "pack" + d + packName + d + name
	}
	if q.Query == "" {
		return nil
	}
	if q.Interval <= 0 || q.Interval > maxQueryInterval {
		c.w.p.log.warn("packs.cpp:262", "Query has invalid interval: %s: %d", name, uint64(q.Interval))
		return nil
	}
	q.splayed = c.splay(name, q.Interval)
	return q
}

// splay spreads an interval at random, and remembers how.
func (c *configState) splay(name string, interval int64) int64 {
	key, want := "interval."+name, strconv.FormatInt(interval, 10)+":"
	if old, ok := c.w.db.get(domainSettings, key); ok && strings.HasPrefix(old, want) {
		if n, err := strconv.ParseInt(strings.TrimPrefix(old, want), 10, 64); err == nil && n > 0 {
			return n
		}
	}
	percent := c.w.p.flags.num("schedule_splay_percent")
	if percent <= 1 {
		percent = 10
	}
	splayed := interval
	if d := interval * percent / 100; d > 0 && percent <= 100 {
		low := max(1, interval-d)
		splayed = low + rand.Int64N(interval+d-low+1) //nolint:gosec // no secret
	}
	_ = c.w.db.put(domainSettings, key, want+strconv.FormatInt(splayed, 10))
	return splayed
}

func text(v any) string {
	s, _ := v.(string)
	return s
}

// number reads a number or a numeric string.
func number(v any, def int64) int64 {
	switch v := v.(type) {
	case json.Number:
		n, err := v.Int64()
		if err != nil {
			return 0
		}
		return n
	case string:
		n, _ := strconv.ParseInt(v, 10, 64)
		return n
	}
	return def
}

func truth(v any, def bool) bool {
	switch v := v.(type) {
	case bool:
		return v
	case string:
		b, _ := parseBool(v)
		return b
	case json.Number:
		return v.String() != "0"
	}
	return def
}

func platformMatches(platform string) bool {
	if platform == "" || platform == "null" || strings.Contains(platform, "any") || strings.Contains(platform, "all") {
		return true
	}
	if runtime.GOOS != "windows" && strings.Contains(platform, "posix") {
		return true
	}
	return strings.Contains(platform, runtime.GOOS)
}

func versionMatches(least, version string) bool {
	return least == "" || least == "null" || versionAtLeast(least, version)
}

func (c *configState) packList() []*pack {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.packs)
}
