package transporttest

import (
	"context"
	"errors"
	"testing"

	"github.com/osqvisor/osqvisor/extension"
)

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

func brokenCarves() []breakage {
	onStart := func(name string, f func(r *extension.CarveRequest)) breakage {
		return breakage{name, func(_ *testing.T, h *hooked) {
			h.carve = func(ctx context.Context, n extension.Node, r extension.CarveRequest) (string, error) {
				f(&r)
				return h.memory.StartCarve(ctx, n, r)
			}
		}}
	}
	onBlock := func(name string, f func(b *extension.CarveBlock)) breakage {
		return breakage{name, func(_ *testing.T, h *hooked) {
			h.block = func(ctx context.Context, n extension.Node, b extension.CarveBlock) error {
				f(&b)
				return h.memory.CarveBlock(ctx, n, b)
			}
		}}
	}
	return []breakage{
		onStart("size lost", func(r *extension.CarveRequest) { r.CarveSize = 0 }),
		onStart("request id lost", func(r *extension.CarveRequest) { r.RequestID = "" }),
		onBlock("block cut", func(b *extension.CarveBlock) { b.Data = b.Data[:1] }),
		onBlock("all blocks the first", func(b *extension.CarveBlock) { b.BlockID = 0 }),
		{"error swallowed", func(_ *testing.T, h *hooked) {
			h.carve = func(ctx context.Context, n extension.Node, r extension.CarveRequest) (string, error) {
				session, _ := h.memory.StartCarve(ctx, n, r)
				return session, nil
			}
		}},
		{"error flattened", func(_ *testing.T, h *hooked) {
			h.carve = func(ctx context.Context, n extension.Node, r extension.CarveRequest) (string, error) {
				session, err := h.memory.StartCarve(ctx, n, r)
				return session, flatten(err)
			}
		}},
		{"one session for all", func(_ *testing.T, h *hooked) {
			h.carve = func(ctx context.Context, n extension.Node, r extension.CarveRequest) (string, error) {
				n.Instance = "carves-1"
				return h.memory.StartCarve(ctx, n, r)
			}
		}},
		{"data kept", func(_ *testing.T, h *hooked) {
			h.block = func(ctx context.Context, n extension.Node, b extension.CarveBlock) error {
				return h.meet(ctx, func() error {
					h.mu.Lock()
					defer h.mu.Unlock()
					for _, c := range h.carved[n.Instance] {
						if c.Session == b.Session {
							c.Blocks[b.BlockID] = b.Data
						}
					}
					return nil
				})
			}
		}},
	}
}
