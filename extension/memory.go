package extension

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"sync"
	"time"
)

// Memory is a [Transport] that keeps everything in memory: for tests, examples
// and a first try. It serves any number of instances, enrols them, drops batches
// and results that it has already, and fails when it is told to. All methods are
// safe for concurrent use. It keeps what it is given until it is dropped.
type Memory struct {
	mu       sync.Mutex
	nodes    map[string]*memoryNode
	fail     func(call string, node Node) error
	enrolled int
}

// memoryNode is what Memory knows of one instance.
type memoryNode struct {
	config  map[string]string
	key     string
	batches []Batch
	have    map[string]bool // the ids of batches
	lines   map[Queue][][]byte
	repeats int
	ask     QuerySet
	asked   int
	results []Result
	written map[string]bool // the ids of results
	waiting map[string]chan Result
	changed chan struct{} // closed and replaced when something came
}

// NewMemory makes an empty Memory: every instance has the config "{}" and no queries.
func NewMemory() *Memory { return &Memory{nodes: map[string]*memoryNode{}} }

// node gives an instance's part; m.mu is held.
func (m *Memory) node(instance string) *memoryNode {
	n := m.nodes[instance]
	if n == nil {
		n = &memoryNode{
			config: map[string]string{"memory": "{}"}, have: map[string]bool{}, lines: map[Queue][][]byte{},
			written: map[string]bool{}, waiting: map[string]chan Result{}, changed: make(chan struct{}),
		}
		m.nodes[instance] = n
	}
	return n
}

func (n *memoryNode) touch() {
	close(n.changed)
	n.changed = make(chan struct{})
}

// before does what comes before each call.
func (m *Memory) before(ctx context.Context, call string, node Node) error {
	m.mu.Lock()
	fail := m.fail
	m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if fail != nil {
		if err := fail(call, node); err != nil {
			return err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if call != "enroll" && (node.Key == "" || node.Key != m.node(node.Instance).key) {
		return fmt.Errorf("memory: %w", ErrNodeInvalid)
	}
	return nil
}

// Enroll gives a new node key.
func (m *Memory) Enroll(ctx context.Context, req EnrollRequest) (string, error) {
	if err := m.before(ctx, "enroll", req.Node); err != nil {
		return "", err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.enrolled++
	n := m.node(req.Node.Instance)
	n.key = fmt.Sprintf("key-%d-%d", m.enrolled, time.Now().UnixNano())
	return n.key, nil
}

// Config gives what SetConfig set.
func (m *Memory) Config(ctx context.Context, node Node) (map[string]string, error) {
	if err := m.before(ctx, "config", node); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.node(node.Instance).config), nil
}

// PublishLogs keeps the lines, unless the batch came before.
func (m *Memory) PublishLogs(ctx context.Context, node Node, batch Batch) error {
	if err := m.before(ctx, "logs", node); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.node(node.Instance)
	if n.have[batch.ID] {
		n.repeats++
		return nil
	}
	batch = batch.clone() // the caller's lines are not to be kept
	n.have[batch.ID] = true
	n.batches = append(n.batches, batch)
	n.lines[batch.Queue] = append(n.lines[batch.Queue], batch.Lines...)
	n.touch()
	return nil
}

// Queries gives what was asked since the last call.
func (m *Memory) Queries(ctx context.Context, node Node) (QuerySet, error) {
	if err := m.before(ctx, "queries", node); err != nil {
		return QuerySet{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.node(node.Instance)
	set := n.ask
	n.ask = QuerySet{}
	return set, nil
}

// WriteResults keeps results, unless one of that id came before, and hands them to
// those who wait for them.
func (m *Memory) WriteResults(ctx context.Context, node Node, results []Result) error {
	if err := m.before(ctx, "results", node); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.node(node.Instance)
	for _, r := range results {
		if !n.written[r.ID] {
			r.Rows = bytes.Clone(r.Rows)
			n.written[r.ID], n.results = true, append(n.results, r)
		}
		if c := n.waiting[r.ID]; c != nil {
			delete(n.waiting, r.ID)
			c <- r
		}
	}
	return nil
}
