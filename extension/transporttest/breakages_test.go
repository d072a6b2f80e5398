package transporttest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
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
		"Carves":            brokenCarves(),
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
