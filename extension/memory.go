package extension

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// Memory is a [Transport] that keeps everything in memory: for tests, examples
// and a first try. It serves any number of instances, enrols them, drops batches
// and results that it has already, and fails on demand. All methods are
// safe for concurrent use. It keeps everything until it is dropped.
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

// node returns an instance's part; m.mu is held.
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

// Enroll returns a new node key.
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

// Config returns what SetConfig set.
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

// Queries returns the queries that were added since the last call.
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

// WriteResults keeps results, unless one of that id came before, and passes them to
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

// What a host sets in a Memory, and what it finds there.

// SetConfig sets what an instance gets at its next fetch.
func (m *Memory) SetConfig(instance string, config map[string]string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.node(instance).config = maps.Clone(config)
}

// Ask puts a distributed query for an instance and returns a function that waits
// for its result until ctx ends; it may be called once.
func (m *Memory) Ask(instance, sql string) (wait func(ctx context.Context) (Result, error)) {
	return m.AskSet(instance, QuerySet{Queries: map[string]string{"": sql}})
}

// AskSet is Ask with discovery and acceleration. The one query in set gets an
// id of Memory's own, whatever it has, and so is its discovery query.
func (m *Memory) AskSet(instance string, set QuerySet) (wait func(ctx context.Context) (Result, error)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.node(instance)
	n.asked++
	id := fmt.Sprintf("q%d", n.asked)
	own := QuerySet{Queries: map[string]string{}, Discovery: map[string]string{}, AccelerateSeconds: set.AccelerateSeconds}
	for _, sql := range set.Queries {
		own.Queries[id] = sql
	}
	for _, sql := range set.Discovery {
		own.Discovery[id] = sql
	}
	n.add(own)
	c := make(chan Result, 1)
	n.waiting[id] = c
	return func(ctx context.Context) (Result, error) {
		select {
		case r := <-c:
			return r, nil
		case <-ctx.Done():
			return Result{}, fmt.Errorf("no answer to %q: %w", id, ctx.Err())
		}
	}
}

// SetQueries puts distributed queries for an instance, beside those of Ask, with
// their ids as they are: see Results for the answers.
func (m *Memory) SetQueries(instance string, set QuerySet) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.node(instance).add(set)
}

// add adds set to what the next call returns.
func (n *memoryNode) add(set QuerySet) {
	if n.ask.Queries == nil {
		n.ask = QuerySet{Queries: map[string]string{}, Discovery: map[string]string{}}
	}
	maps.Copy(n.ask.Queries, set.Queries)
	maps.Copy(n.ask.Discovery, set.Discovery)
	n.ask.AccelerateSeconds = max(n.ask.AccelerateSeconds, set.AccelerateSeconds)
}

// Results returns the results that came, in order, the first one of each id.
func (m *Memory) Results(instance string) []Result {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.node(instance).results)
}

// Batches returns the batches that came, in order, without those that came again.
func (m *Memory) Batches(instance string) []Batch {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.node(instance).batches)
}

// Logs returns copies of the lines of one queue that came, in order, without those
// of batches that came again.
func (m *Memory) Logs(instance string, queue Queue) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	lines := m.node(instance).lines[queue]
	out := make([]string, len(lines))
	for i, l := range lines {
		out[i] = string(l)
	}
	return out
}

// WaitLogs waits until at least count lines of one queue came, and returns them.
func (m *Memory) WaitLogs(ctx context.Context, instance string, queue Queue, count int) ([]string, error) {
	for {
		m.mu.Lock()
		changed := m.node(instance).changed
		m.mu.Unlock()
		if lines := m.Logs(instance, queue); len(lines) >= count {
			return lines, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return m.Logs(instance, queue), fmt.Errorf("%d lines of %s did not come: %w", count, queue, ctx.Err())
		}
	}
}

// Repeats counts the batches of an instance that came more than once.
func (m *Memory) Repeats(instance string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.node(instance).repeats
}

// Fail sets a function that is called before each call, which is "config", "logs",
// "queries", "results" or "enroll"; an error from it is the call's. nil ends it.
// It may block, and may panic.
func (m *Memory) Fail(f func(call string, node Node) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = f
}

// Invalidate makes an instance's node key invalid: it has to enrol again.
func (m *Memory) Invalidate(instance string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.node(instance).key = ""
}

// Enrolments counts the node keys that were issued.
func (m *Memory) Enrolments() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.enrolled
}
