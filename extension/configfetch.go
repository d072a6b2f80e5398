package extension

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/osqvisor/osqvisor/stats"
)

// prepared is a config that osqueryd may have.
type prepared struct {
	sources  map[string]string
	hash     string
	stripped []strippedOption
	ignored  []*ConfigError
	blank    bool      // it stands for none
	before   *prepared // without the policy's changes, which is what is kept on disk
}

// fetcher gets a config from the source to where osqueryd may have it: fetch,
// resolve packs, parse, policy, parse again.
type fetcher struct {
	set    *settings
	client *client
	say    *announcer
	gate   gate
	policy slot
}

// config gives a config from the source.
func (f *fetcher) config(ctx context.Context) (*prepared, error) {
	if err := f.gate.shut(); err != nil {
		return nil, fmt.Errorf("fetch the config: %w", err)
	}
	raw, err := invoke(ctx, f.client, callConfig, f.set.transport.Config)
	if !errors.As(err, new(enrolmentError)) { // as soon as there is a key it may be asked
		f.gate.note(err)
	}
	if errors.Is(err, ErrUnsupported) {
		raw, err = nil, nil
	}
	if err != nil && ended(ctx) {
		return nil, fmt.Errorf("fetch the config: %w", context.Cause(ctx))
	}
	if err != nil {
		f.say.say(func(h stats.Head) stats.Event {
			return stats.TransportFailed{Head: h, Call: callConfig, Err: err, Retry: retryAfter(err)}
		})
		return nil, fmt.Errorf("fetch the config: %w", err)
	}
	return f.prepare(ctx, raw)
}

// prepare checks a config and announces a refusal.
func (f *fetcher) prepare(ctx context.Context, raw map[string]string) (*prepared, error) {
	p, err := f.check(ctx, raw)
	if err != nil && ended(ctx) {
		return nil, fmt.Errorf("check the config: %w", context.Cause(ctx))
	}
	if err != nil {
		source := ""
		var bad *ConfigError
		if errors.As(err, &bad) {
			source = bad.Source
		}
		f.say.say(func(h stats.Head) stats.Event {
			return stats.ConfigRefused{Head: h, Source: source, Err: err}
		})
		return nil, fmt.Errorf("the config is refused: %w", err)
	}
	return p, nil
}

func (f *fetcher) check(ctx context.Context, raw map[string]string) (*prepared, error) {
	p, err := f.parse(ctx, raw)
	if err != nil || f.set.policy == nil {
		return p, err
	}
	node, err := f.set.askNode()
	if err != nil {
		f.say.caught(err)
		return nil, err
	}
	theirs := maps.Clone(p.sources) // they may change it
	changed, err := bounded(ctx, f.client.tasks, f.policy, "config policy", func(ctx context.Context) (map[string]string, error) {
		return f.set.policy(ctx, node, theirs)
	})
	f.say.caught(err)
	if err != nil {
		return nil, fmt.Errorf("config policy: %w", err)
	}
	after, err := f.parse(ctx, changed)
	if err == nil {
		after.stripped, after.before = append(p.stripped, after.stripped...), p
	}
	return after, err
}

// parse reads all sources, puts packs in and takes owned options out.
func (f *fetcher) parse(ctx context.Context, raw map[string]string) (*prepared, error) {
	docs, err := parseConfigs(raw, f.set.configLimit)
	if err != nil {
		return nil, err
	}
	p := &prepared{sources: make(map[string]string, len(docs))}
	p.before = p
	for _, d := range docs {
		d, err := f.putPacks(ctx, d)
		if err != nil {
			return nil, err
		}
		p.stripped = append(p.stripped, d.strip(f.set.owned)...)
		p.ignored = append(p.ignored, d.ignored...)
		p.sources[d.source] = d.text()
	}
	p.hash = hashSources(p.sources)
	return p, nil
}

// putPacks puts the packs in that the document only names, and checks the whole
// again: packs can make it too large or too deep, or end osqueryd.
func (f *fetcher) putPacks(ctx context.Context, d *document) (*document, error) {
	source, ok := f.set.transport.(PackSource)
	packs := d.tree.get("packs")
	if !ok || packs == nil || !slices.ContainsFunc(packs.members, namesPack) {
		return d, nil
	}
	var all []member
	ignored := d.ignored
	for _, m := range packs.members {
		if !namesPack(m) {
			all = append(all, m)
			continue
		}
		text, err := invoke(ctx, f.client, callConfig, func(ctx context.Context, n Node) (string, error) {
			return source.Pack(ctx, n, m.key, m.value.text)
		})
		if err != nil {
			return nil, fmt.Errorf("pack %q of config source %q: %w", m.key, d.source, err)
		}
		found, twice, err := parsePack(d.source, m.key, text, f.set.configLimit)
		if err != nil {
			return nil, err
		}
		all, ignored = append(all, found...), append(ignored, twice...)
	}
	packs.members, d.changed = all, true
	whole, err := parseConfig(d.source, d.text(), f.set.configLimit)
	if err != nil {
		return nil, err
	}
	for _, part := range ignored { // of what the whole has no more, too
		if !slices.ContainsFunc(whole.ignored, func(other *ConfigError) bool { return *other == *part }) {
			whole.ignored = append(whole.ignored, part)
		}
	}
	return whole, nil
}

func namesPack(m member) bool { return m.value.kind == '"' }

// parsePack reads a pack; its shape is checked with the document that it joins. The
// name "*" stands for an object of several. ignored are keys that are there twice.
func parsePack(source, name, text string, limit int) (found []member, ignored []*ConfigError, err error) {
	bad := func(reason string) *ConfigError { return &ConfigError{source, "packs." + name, reason} }
	stripped, _ := stripComments(text)
	if len(stripped) > limit {
		return nil, nil, bad(fmt.Sprintf("%d bytes are more than the limit of %d", len(stripped), limit))
	}
	tree, twice, err := parseTree([]byte(stripped))
	if err != nil {
		return nil, nil, bad(err.Error())
	}
	if tree.kind != '{' {
		return nil, nil, bad("it is not a JSON object")
	}
	for _, what := range twice[:min(len(twice), maxShapeErrors)] {
		ignored = append(ignored, bad(what))
	}
	found = []member{{name, tree}}
	if name == "*" {
		found = tree.members
	}
	return found, ignored, nil
}

// hashSources gives a hash that two configs share only if they are the same.
func hashSources(sources map[string]string) string {
	h := sha256.New()
	var size [8]byte
	for _, name := range sortedKeys(sources) {
		for _, s := range []string{name, sources[name]} {
			binary.BigEndian.PutUint64(size[:], uint64(len(s)))
			h.Write(size[:])
			h.Write([]byte(s))
		}
	}
	return hex.EncodeToString(h.Sum(nil))
}
