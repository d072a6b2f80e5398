package extension

import (
	"context"
	"fmt"
	"maps"
	"slices"
)

// What a host sets in a Memory, and what it finds there.

// SetConfig sets what an instance gets at its next fetch.
func (m *Memory) SetConfig(instance string, config map[string]string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.node(instance).config = maps.Clone(config)
}

// Ask puts a distributed query for an instance and gives a function that waits
// for its result until ctx ends; it may be called once.
func (m *Memory) Ask(instance, sql string) (wait func(ctx context.Context) (Result, error)) {
	return m.AskSet(instance, QuerySet{Queries: map[string]string{"": sql}})
}

// AskSet is Ask with discovery and acceleration. The one query in set is given an
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

// add puts set to what is asked at the next call.
func (n *memoryNode) add(set QuerySet) {
	if n.ask.Queries == nil {
		n.ask = QuerySet{Queries: map[string]string{}, Discovery: map[string]string{}}
	}
	maps.Copy(n.ask.Queries, set.Queries)
	maps.Copy(n.ask.Discovery, set.Discovery)
	n.ask.AccelerateSeconds = max(n.ask.AccelerateSeconds, set.AccelerateSeconds)
}

// Results gives the results that came, in order, the first one of each id.
func (m *Memory) Results(instance string) []Result {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.node(instance).results)
}

// Batches gives the batches that came, in order, without those that came again.
func (m *Memory) Batches(instance string) []Batch {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.node(instance).batches)
}

// Logs gives copies of the lines of one queue that came, in order, without those
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

// WaitLogs waits until at least count lines of one queue came, and gives them.
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

// Fail sets a function that is asked before each call, which is "config", "logs",
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

// Enrolments counts the node keys that were given out.
func (m *Memory) Enrolments() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.enrolled
}
