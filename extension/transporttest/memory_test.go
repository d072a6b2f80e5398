package transporttest

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/osqvisor/osqvisor/extension"
)

// memory is the transport in memory that fails as it is told, and its harness.
type memory struct {
	*extension.Memory
	mu      sync.Mutex
	failure Failure
	left    int
}

func newMemory() *memory {
	return &memory{Memory: extension.NewMemory()}
}

// errFailed is what a memory that was told to fail says.
var errFailed = errors.New("memory transport: told to fail")

// meet runs a call, or what it is told to do in its place.
func (m *memory) meet(ctx context.Context, call func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	var f Failure
	if m.left > 0 {
		m.left--
		f = m.failure
	}
	m.mu.Unlock()
	switch f.Kind {
	case "":
		return call()
	case LostAnswer:
		return errors.Join(call(), errFailed)
	case RetryAfter:
		return extension.RetryAfter(f.After, errFailed)
	case NodeInvalid:
		return fmt.Errorf("memory transport: %w", extension.ErrNodeInvalid)
	case Permanent:
		return fmt.Errorf("memory transport: %w", extension.ErrPermanent)
	case TooLarge:
		return fmt.Errorf("memory transport: %w", extension.ErrTooLarge)
	case Hang:
		<-ctx.Done()
		return ctx.Err()
	default:
		return errFailed
	}
}

func (m *memory) Config(ctx context.Context, n extension.Node) (config map[string]string, err error) {
	err = m.meet(ctx, func() (err error) { config, err = m.Memory.Config(ctx, n); return err })
	return config, err
}

func (m *memory) PublishLogs(ctx context.Context, n extension.Node, b extension.Batch) error {
	return m.meet(ctx, func() error { return m.Memory.PublishLogs(ctx, n, b) })
}

func (m *memory) Queries(ctx context.Context, n extension.Node) (set extension.QuerySet, err error) {
	err = m.meet(ctx, func() (err error) { set, err = m.Memory.Queries(ctx, n); return err })
	return set, err
}

func (m *memory) WriteResults(ctx context.Context, n extension.Node, r []extension.Result) error {
	return m.meet(ctx, func() error { return m.Memory.WriteResults(ctx, n, r) })
}

func (m *memory) Transport() extension.Transport             { return m }
func (m *memory) Received(instance string) []extension.Batch { return m.Batches(instance) }
func (m *memory) Limits() Limits {
	return Limits{Also: []Feature{TooLarges, ExactBytes, NotJSON}}
}
func (m *memory) Results(instance string) []extension.Result { return m.Memory.Results(instance) }

func (m *memory) FailNext(failure Failure, n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.failure, m.left = failure, n
}
