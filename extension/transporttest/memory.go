package transporttest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/osqvisor/osqvisor/extension"
)

// Memory is a transport without a network, for hosts' own tests: an
// extension.Transport and extension.Enroller that keeps all it is given, and the
// [Harness] to look at it and to make it fail. All methods may be called from any
// goroutine.
type Memory struct {
	mu       sync.Mutex
	serial   int
	keys     map[string]string // node key → instance
	batches  map[string][]extension.Batch
	results  map[string][]extension.Result
	configs  map[string]map[string]string
	queries  map[string]extension.QuerySet
	failure  Failure
	failures int
}

var (
	_ Harness             = (*Memory)(nil)
	_ extension.Transport = (*Memory)(nil)
	_ extension.Enroller  = (*Memory)(nil)
)

// errFailed is what a Memory that was told to fail says.
var errFailed = errors.New("memory transport: told to fail")

// NewMemory makes an empty one: configs are {} in a source "main", and there are
// no queries.
func NewMemory() *Memory {
	return &Memory{
		keys: map[string]string{}, batches: map[string][]extension.Batch{}, results: map[string][]extension.Result{},
		configs: map[string]map[string]string{}, queries: map[string]extension.QuerySet{},
	}
}

// enter begins a call: it fails as told, or gives the instance that the key is of.
// after is what to return once the call has been served.
func (m *Memory) enter(ctx context.Context, node extension.Node) (instance string, after, err error) {
	if err := ctx.Err(); err != nil {
		return "", nil, err
	}
	m.mu.Lock()
	instance, known := m.keys[node.Key]
	var failure Failure
	if m.failures > 0 {
		m.failures--
		failure = m.failure
	}
	m.mu.Unlock()
	if err := fail(ctx, failure); err != nil {
		return "", nil, err
	}
	if !known {
		return "", nil, fmt.Errorf("memory transport: %w", extension.ErrNodeInvalid)
	}
	if failure.Kind == LostAnswer {
		return instance, errFailed, nil
	}
	return instance, nil, nil
}

func fail(ctx context.Context, f Failure) error {
	switch f.Kind {
	case Temporary:
		return errFailed
	case RetryAfter:
		return extension.RetryAfter(f.After, errFailed)
	case NodeInvalid:
		return fmt.Errorf("memory transport: %w", extension.ErrNodeInvalid)
	case Permanent:
		return fmt.Errorf("memory transport: %w", extension.ErrPermanent)
	case Hang:
		<-ctx.Done()
		return ctx.Err()
	}
	return nil
}

// Enroll gives a new key each time; the older ones stay valid until
// [Memory.InvalidateKeys].
func (m *Memory) Enroll(ctx context.Context, req extension.EnrollRequest) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.serial++
	key := fmt.Sprintf("memory-key-%d", m.serial)
	m.keys[key] = req.Node.Instance
	return key, nil
}

// InvalidateKeys forgets all node keys.
func (m *Memory) InvalidateKeys() {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.keys)
}

// Config implements extension.Transport.
func (m *Memory) Config(ctx context.Context, node extension.Node) (map[string]string, error) {
	instance, after, err := m.enter(ctx, node)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if config, found := m.configs[instance]; found {
		return maps.Clone(config), after
	}
	return map[string]string{"main": "{}"}, after
}

// PublishLogs implements extension.Transport.
func (m *Memory) PublishLogs(ctx context.Context, node extension.Node, batch extension.Batch) error {
	instance, after, err := m.enter(ctx, node)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.batches[instance] = append(m.batches[instance], clone(batch))
	return after
}

// Queries implements extension.Transport. A set is handed out once.
func (m *Memory) Queries(ctx context.Context, node extension.Node) (extension.QuerySet, error) {
	instance, after, err := m.enter(ctx, node)
	if err != nil {
		return extension.QuerySet{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	set := m.queries[instance]
	delete(m.queries, instance)
	return set, after
}

// WriteResults implements extension.Transport.
func (m *Memory) WriteResults(ctx context.Context, node extension.Node, results []extension.Result) error {
	instance, after, err := m.enter(ctx, node)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range results {
		r.Rows = bytes.Clone(r.Rows)
		m.results[instance] = append(m.results[instance], r)
	}
	return after
}

// Transport implements [Harness].
func (m *Memory) Transport() extension.Transport { return m }

// Received implements [Harness]; repeated batches are listed.
func (m *Memory) Received(instance string) []extension.Batch {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.batches[instance])
}

// Results implements [Harness].
func (m *Memory) Results(instance string) []extension.Result {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.results[instance])
}

// SetConfig implements [Harness].
func (m *Memory) SetConfig(instance string, config map[string]string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.configs[instance] = maps.Clone(config)
}

// SetQueries implements [Harness].
func (m *Memory) SetQueries(instance string, set extension.QuerySet) {
	set.Queries, set.Discovery = maps.Clone(set.Queries), maps.Clone(set.Discovery)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.queries[instance] = set
}

// FailNext implements [Harness].
func (m *Memory) FailNext(failure Failure, n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.failure, m.failures = failure, n
}

// Limits implements [Harness]: there are none.
func (m *Memory) Limits() Limits { return Limits{} }
