package plugin

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/internal/delivery"
	"github.com/osqvisor/osqvisor/internal/guard"
	"github.com/osqvisor/osqvisor/internal/osqueryconf"
	"github.com/osqvisor/osqvisor/stats"
)

// prepared is a config that osqueryd may have.
type prepared struct {
	sources  map[string]string
	hash     string
	stripped []osqueryconf.StrippedOption
	ignored  []*extension.ConfigError
	blank    bool      // it stands for none
	before   *prepared // without the policy's changes, which is what is kept on disk
}

// fetcher gets a config from the source to where osqueryd may have it: fetch,
// resolve packs, parse, policy, parse again.
type fetcher struct {
	set    *Settings
	client *client
	events *guard.Announcer
	gate   gate
	policy guard.Slot
}

// config returns a config from the source.
func (f *fetcher) config(ctx context.Context) (*prepared, error) {
	if err := f.gate.closed(); err != nil {
		return nil, fmt.Errorf("fetch the config: %w", err)
	}
	raw, err := invoke(ctx, f.client, callConfig, f.set.Transport.Config)
	if !errors.As(err, new(enrolmentError)) { // as soon as there is a key it may be called
		f.gate.note(err)
	}
	if errors.Is(err, extension.ErrUnsupported) {
		raw, err = nil, nil
	}
	if err != nil && ended(ctx) {
		return nil, fmt.Errorf("fetch the config: %w", context.Cause(ctx))
	}
	if err != nil {
		f.events.Announce(func(h stats.Head) stats.Event {
			return stats.TransportFailed{Head: h, Call: callConfig, Err: err, Retry: delivery.RetryAfter(err)}
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
		var bad *extension.ConfigError
		if errors.As(err, &bad) {
			source = bad.Source
		}
		f.events.Announce(func(h stats.Head) stats.Event {
			return stats.ConfigRefused{Head: h, Source: source, Err: err}
		})
		return nil, fmt.Errorf("the config is refused: %w", err)
	}
	return p, nil
}

func (f *fetcher) check(ctx context.Context, raw map[string]string) (*prepared, error) {
	p, err := f.parse(ctx, raw)
	if err != nil || f.set.Config.Policy == nil {
		return p, err
	}
	node, err := f.set.callNode()
	if err != nil {
		f.events.AnnouncePanic(err)
		return nil, err
	}
	theirs := maps.Clone(p.sources) // they may change it
	changed, err := guard.Bounded(ctx, f.client.tasks, f.policy, "config policy", func(ctx context.Context) (map[string]string, error) {
		return f.set.Config.Policy(ctx, node, theirs)
	})
	f.events.AnnouncePanic(err)
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
	docs, err := osqueryconf.ParseAll(raw, f.set.Config.Limit)
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
		p.stripped = append(p.stripped, d.Strip(f.set.Config.Owned)...)
		p.ignored = append(p.ignored, d.Ignored...)
		p.sources[d.Source] = d.Text()
	}
	p.hash = hashSources(p.sources)
	return p, nil
}

// putPacks puts the packs in that the document only names.
func (f *fetcher) putPacks(ctx context.Context, d *osqueryconf.Document) (*osqueryconf.Document, error) {
	source, ok := f.set.Transport.(extension.PackSource)
	if !ok || !d.NamesPacks() {
		return d, nil
	}
	return d.PutPacks(f.set.Config.Limit, func(name, value string) (string, error) {
		return invoke(ctx, f.client, callConfig, func(ctx context.Context, n extension.Node) (string, error) {
			return source.Pack(ctx, n, name, value)
		})
	})
}

// hashSources returns a hash that two configs share only if they are the same.
func hashSources(sources map[string]string) string {
	h := sha256.New()
	var size [8]byte
	for _, name := range slices.Sorted(maps.Keys(sources)) {
		for _, s := range []string{name, sources[name]} {
			binary.BigEndian.PutUint64(size[:], uint64(len(s)))
			h.Write(size[:])
			h.Write([]byte(s))
		}
	}
	return hex.EncodeToString(h.Sum(nil))
}
