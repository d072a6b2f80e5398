package transporttest

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/osqvisor/osqvisor/extension"
)

func brokenConfigs() []breakage {
	change := func(name string, f func(map[string]string) map[string]string) breakage {
		return breakage{name, func(_ *testing.T, h *hooked) {
			h.config = func(ctx context.Context, n extension.Node) (map[string]string, error) {
				c, err := h.memory.Config(ctx, n)
				return f(c), err
			}
		}}
	}
	return []breakage{
		change("re-encoded", func(c map[string]string) map[string]string {
			for k := range c {
				c[k] = strings.ReplaceAll(c[k], " ", "")
			}
			return c
		}),
		change("one source lost", func(c map[string]string) map[string]string { return map[string]string{"main": c["main"]} }),
		change("one source more", func(c map[string]string) map[string]string {
			c = maps.Clone(c)
			c["extra"] = "{}"
			return c
		}),
		{"kept for ever", func(_ *testing.T, h *hooked) {
			var once sync.Once
			var first map[string]string
			h.config = func(ctx context.Context, n extension.Node) (c map[string]string, err error) {
				once.Do(func() { first, err = h.memory.Config(ctx, n) })
				return maps.Clone(first), err
			}
		}},
	}
}

func brokenOrder() []breakage {
	return []breakage{
		onBatch("one queue for all", func(b *extension.Batch) { b.Queue = extension.QueueResults }),
		onBatch("lines reversed", func(b *extension.Batch) { b.Lines[0], b.Lines[1] = b.Lines[1], b.Lines[0] }),
		{"acknowledged early", func(_ *testing.T, h *hooked) {
			var held []func()
			h.publish = func(ctx context.Context, n extension.Node, b extension.Batch) error {
				b = clone(b)
				held = append(held, func() { _ = h.memory.PublishLogs(ctx, n, b) })
				if len(held) == 2 { // and swapped
					held[1]()
					held[0]()
					held = nil
				}
				return nil
			}
		}},
	}
}

func brokenBytes() []breakage {
	change := func(name string, f func([]byte) []byte) breakage {
		return onBatch(name, func(b *extension.Batch) {
			for i := range b.Lines {
				b.Lines[i] = f(b.Lines[i])
			}
		})
	}
	return []breakage{
		change("trimmed", bytes.TrimSpace),
		change("made UTF-8", func(l []byte) []byte { return bytes.ToValidUTF8(l, []byte("?")) }),
		change("numbers as floats", func(l []byte) []byte {
			var v any
			if json.Unmarshal(l, &v) != nil {
				return l
			}
			out, _ := json.Marshal(v)
			return out
		}),
	}
}

func brokenNotJSON() []breakage {
	return []breakage{
		onBatch("left out", func(b *extension.Batch) {
			b.Lines = slices.DeleteFunc(b.Lines, func(l []byte) bool { return !json.Valid(l) })
		}),
		onBatch("quoted", func(b *extension.Batch) {
			for i, l := range b.Lines {
				if !json.Valid(l) {
					b.Lines[i], _ = json.Marshal(string(l))
				}
			}
		}),
	}
}

func brokenQueries() []breakage {
	change := func(name string, f func(*extension.QuerySet)) breakage {
		return breakage{name, func(_ *testing.T, h *hooked) {
			h.queries = func(ctx context.Context, n extension.Node) (extension.QuerySet, error) {
				q, err := h.memory.Queries(ctx, n)
				f(&q)
				return q, err
			}
		}}
	}
	return []breakage{
		change("discovery lost", func(q *extension.QuerySet) { q.Discovery = nil }),
		change("acceleration lost", func(q *extension.QuerySet) { q.AccelerateSeconds = 0 }),
		change("acceleration from nowhere", func(q *extension.QuerySet) { q.AccelerateSeconds = 300 }),
		change("one lost", func(q *extension.QuerySet) { delete(q.Queries, "q1") }),
	}
}

func dedupeByContent(_ *testing.T, h *hooked) {
	seen := map[string]bool{}
	h.publish = func(ctx context.Context, n extension.Node, b extension.Batch) error {
		content := string(bytes.Join(b.Lines, nil))
		if seen[content] {
			return nil
		}
		err := h.memory.PublishLogs(ctx, n, b)
		seen[content] = err == nil
		return err
	}
}

func onlyFirstTry(_ *testing.T, h *hooked) {
	h.publish = func(ctx context.Context, n extension.Node, b extension.Batch) error {
		if b.Try == 1 {
			return h.memory.PublishLogs(ctx, n, b)
		}
		return h.meet(ctx, func() error { return nil })
	}
}

func changeLines(_ *testing.T, h *hooked) {
	h.publish = func(ctx context.Context, n extension.Node, b extension.Batch) error {
		err := h.memory.PublishLogs(ctx, n, b)
		b.Lines[0] = []byte("changed")
		return err
	}
}

func keepLines(_ *testing.T, h *hooked) {
	h.publish = func(ctx context.Context, _ extension.Node, b extension.Batch) error {
		return h.meet(ctx, func() error {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.kept = append(h.kept, b)
			return nil
		})
	}
}

func leak(t *testing.T, h *hooked) {
	t.Helper()
	end := make(chan struct{})
	t.Cleanup(func() { close(end) })
	h.publish = func(ctx context.Context, n extension.Node, b extension.Batch) error {
		go func() { <-end }()
		return h.memory.PublishLogs(ctx, n, b)
	}
	h.config = func(ctx context.Context, n extension.Node) (map[string]string, error) {
		go func() { <-end }()
		return h.memory.Config(ctx, n)
	}
}

func crossTalk(_ *testing.T, h *hooked) {
	var mu sync.Mutex
	var last string
	h.publish = func(ctx context.Context, n extension.Node, b extension.Batch) error {
		mu.Lock()
		if last == "" {
			last = n.Key
		}
		n.Key = last // the first one's, for ever
		mu.Unlock()
		return h.memory.PublishLogs(ctx, n, b)
	}
}

func oneConfig(_ *testing.T, h *hooked) {
	h.config = func(context.Context, extension.Node) (map[string]string, error) {
		return map[string]string{"main": `{"of":"tenant-00"}`}, nil
	}
}

func oneQuerySet(_ *testing.T, h *hooked) {
	h.queries = func(context.Context, extension.Node) (extension.QuerySet, error) {
		return extension.QuerySet{Queries: map[string]string{"tenant-00": "select 1"}}, nil
	}
}

func pretend(_ *testing.T, h *hooked) {
	h.limits = Limits{Cannot: map[Feature]string{Logs: "they go elsewhere"}}
	h.publish = func(context.Context, extension.Node, extension.Batch) error { return nil }
}
