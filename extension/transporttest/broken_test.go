package transporttest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/osqvisor/osqvisor/extension"
)

type breakage struct {
	name string
	do   func(t *testing.T, h *hooked)
}

// onBatch breaks what arrives.
func onBatch(name string, f func(b *extension.Batch)) breakage {
	return breakage{name, func(_ *testing.T, h *hooked) {
		h.publish = func(ctx context.Context, n extension.Node, b extension.Batch) error {
			b = clone(b)
			f(&b)
			return h.memory.PublishLogs(ctx, n, b)
		}
	}}
}

// onResults breaks results on their way.
func onResults(name string, f func(r []extension.Result) []extension.Result) breakage {
	return breakage{name, func(_ *testing.T, h *hooked) {
		h.write = func(ctx context.Context, n extension.Node, r []extension.Result) error {
			return h.memory.WriteResults(ctx, n, f(r))
		}
	}}
}

// onError breaks the errors of all four methods, one after the other.
func onError(name string, f func(error) error) []breakage {
	return []breakage{
		{name + " of Config", func(_ *testing.T, h *hooked) {
			h.config = func(ctx context.Context, n extension.Node) (map[string]string, error) {
				c, err := h.memory.Config(ctx, n)
				return c, f(err)
			}
		}},
		{name + " of PublishLogs", func(_ *testing.T, h *hooked) {
			h.publish = func(ctx context.Context, n extension.Node, b extension.Batch) error {
				return f(h.memory.PublishLogs(ctx, n, b))
			}
		}},
		{name + " of Queries", func(_ *testing.T, h *hooked) {
			h.queries = func(ctx context.Context, n extension.Node) (extension.QuerySet, error) {
				q, err := h.memory.Queries(ctx, n)
				return q, f(err)
			}
		}},
		{name + " of WriteResults", func(_ *testing.T, h *hooked) {
			h.write = func(ctx context.Context, n extension.Node, r []extension.Result) error {
				return f(h.memory.WriteResults(ctx, n, r))
			}
		}},
	}
}

func swallow(error) error { return nil }

func flatten(err error) error {
	if err == nil {
		return nil
	}
	return errors.New(err.Error())
}

// deaf makes a method go on after its context has ended.
func deaf(t *testing.T, h *hooked) {
	t.Helper()
	free, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	h.publish = func(_ context.Context, n extension.Node, b extension.Batch) error {
		return h.memory.PublishLogs(free, n, b)
	}
}

// breakages gives each case the transports that must not pass it.
func breakages() map[string][]breakage {
	all := brokenData()
	maps.Copy(all, brokenLogs())
	maps.Copy(all, brokenErrors())
	return all
}

func brokenData() map[string][]breakage {
	return map[string][]breakage{
		"Enroll": {
			{"no key", func(_ *testing.T, h *hooked) {
				h.enroll = func(context.Context, extension.EnrollRequest) (string, error) { return "", nil }
			}},
			{"one key for all", func(_ *testing.T, h *hooked) {
				h.enroll = func(ctx context.Context, _ extension.EnrollRequest) (string, error) { return "key", ctx.Err() }
			}},
			{"an error", func(_ *testing.T, h *hooked) {
				h.enroll = func(context.Context, extension.EnrollRequest) (string, error) { return "", errFailed }
			}},
			{"deaf", func(_ *testing.T, h *hooked) {
				h.enroll = func(_ context.Context, r extension.EnrollRequest) (string, error) {
					return h.memory.Enroll(context.Background(), r)
				}
			}},
		},
		"Config":  brokenConfigs(),
		"Queries": brokenQueries(),
		"Results": {
			onResults("last one lost", func(r []extension.Result) []extension.Result { return r[:len(r)-1] }),
			onResults("status lost", mapResults(func(r *extension.Result) { r.Status = 0 })),
			onResults("message lost", mapResults(func(r *extension.Result) { r.Message = "" })),
			onResults("stats lost", mapResults(func(r *extension.Result) { r.Stats = nil })),
			onResults("rows re-encoded", mapResults(func(r *extension.Result) {
				r.Rows = bytes.ReplaceAll(r.Rows, []byte("null"), []byte(`""`))
			})),
		},
		"Results/NoRows": {
			onResults("left out", func(r []extension.Result) []extension.Result {
				return slices.DeleteFunc(r, func(r extension.Result) bool { return len(r.Rows) == 0 })
			}),
		},
		"Concurrency": {{"one identity", crossTalk}, {"one config", oneConfig}, {"one queue", oneQuerySet}},
		"Unsupported": {{"nil", pretend}},
	}
}

func brokenLogs() map[string][]breakage {
	return map[string][]breakage{
		"Logs/Order":     brokenOrder(),
		"Logs/Signature": {onBatch("left out", func(b *extension.Batch) { b.Signature = nil })},
		"Logs/Duplicates": {
			onBatch("a new ID each try", func(b *extension.Batch) { b.ID = fmt.Sprint(b.ID, b.Try) }),
			{"dropped by content", dedupeByContent},
		},
		"Logs/Retried": append(onError("swallowed", swallow)[1:2], breakage{"never again", onlyFirstTry}),
		"Logs/Huge": {
			onBatch("cut", func(b *extension.Batch) {
				for i := range b.Lines {
					b.Lines[i] = b.Lines[i][:min(len(b.Lines[i]), 1<<20)]
				}
			}),
			onBatch("cut batch", func(b *extension.Batch) { b.Lines = b.Lines[:min(len(b.Lines), 1000)] }),
		},
		"Logs/Least": {
			{"refused", func(_ *testing.T, h *hooked) {
				h.publish = func(ctx context.Context, n extension.Node, b extension.Batch) error {
					if len(b.Lines) == 1 {
						return errFailed
					}
					return h.memory.PublishLogs(ctx, n, b)
				}
			}},
			onBatch("left out", func(b *extension.Batch) {
				b.Lines = slices.DeleteFunc(b.Lines, func(l []byte) bool { return string(l) == "{}" })
			}),
		},
		"Logs/NotJSON":   brokenNotJSON(),
		"Logs/Bytes":     brokenBytes(),
		"Logs/Ownership": {{"changed", changeLines}, {"kept", keepLines}},
	}
}

func brokenErrors() map[string][]breakage {
	return map[string][]breakage{
		"Errors/Surface": append(onError("swallowed", swallow), onError("all permanent", func(err error) error {
			if err != nil {
				return fmt.Errorf("%w: %w", extension.ErrPermanent, err)
			}
			return nil
		})...),
		"Errors/RetryAfter": append(onError("flattened", flatten), onError("in milliseconds", func(err error) error {
			var after *extension.RetryAfterError
			if errors.As(err, &after) {
				return extension.RetryAfter(after.After/1000, after.Err)
			}
			return err
		})...),
		"Errors/NodeInvalid": onError("flattened", flatten),
		"Errors/Permanent":   {onError("flattened", flatten)[1], onError("flattened", flatten)[3]},
		"Errors/TooLarge": {
			onError("flattened", flatten)[1],
			{"half of it taken", takeHalf},
			{"lost after it", loseAfterTooLarge},
		},
		"Cancel/UnderWay":   {{"deaf", deaf}, {"swallowed", onError("", swallow)[0].do}},
		"Cancel/Before":     onError("swallowed", swallow),
		"Cancel/Goroutines": {{"one each", leak}},
	}
}

func mapResults(f func(*extension.Result)) func([]extension.Result) []extension.Result {
	return func(r []extension.Result) []extension.Result {
		for i := range r {
			f(&r[i])
		}
		return r
	}
}

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

// takeHalf takes a part of a batch that it says is too large.
func takeHalf(_ *testing.T, h *hooked) {
	h.publish = func(ctx context.Context, n extension.Node, b extension.Batch) error {
		err := h.memory.PublishLogs(ctx, n, b)
		if errors.Is(err, extension.ErrTooLarge) && len(b.Lines) > 1 {
			b.Lines = b.Lines[:len(b.Lines)/2]
			return errors.Join(err, h.memory.PublishLogs(ctx, n, b))
		}
		return err
	}
}

// loseAfterTooLarge takes the halves for the whole that it refused.
func loseAfterTooLarge(_ *testing.T, h *hooked) {
	refused := uint64(0)
	h.publish = func(ctx context.Context, n extension.Node, b extension.Batch) error {
		if b.Last <= refused {
			return h.meet(ctx, func() error { return nil })
		}
		err := h.memory.PublishLogs(ctx, n, b)
		if errors.Is(err, extension.ErrTooLarge) {
			refused = b.Last
		}
		return err
	}
}
