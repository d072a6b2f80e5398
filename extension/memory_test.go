package extension

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/osqvisor/osqvisor/internal/testhelp"
)

func TestMemoryServesManyInstances(t *testing.T) {
	ctx := t.Context()
	const goodConfig = `{"schedule":{"q":{"query":"select 1","interval":60}}}`
	mem := NewMemory()
	mem.SetConfig("a", map[string]string{"main": goodConfig})
	nodes := map[string]Node{}
	for _, id := range []string{"a", "b"} {
		key, err := mem.Enroll(ctx, EnrollRequest{Node: Node{Instance: id}})
		if err != nil {
			t.Fatal(err)
		}
		nodes[id] = Node{Instance: id, Key: key}
	}
	if got, err := mem.Config(ctx, nodes["a"]); err != nil || got["main"] != goodConfig {
		t.Errorf("a got %v, %v", got, err)
	}
	if got, err := mem.Config(ctx, nodes["b"]); err != nil || got["memory"] != "{}" {
		t.Errorf("b got %v, %v", got, err)
	}
	if _, err := mem.Config(ctx, Node{Instance: "a", Key: nodes["b"].Key}); !errors.Is(err, ErrNodeInvalid) {
		t.Errorf("another instance's key: %v", err)
	}
	batch := Batch{ID: "a/results/1-1", Queue: QueueResults, Lines: [][]byte{[]byte("x")}}
	for range 2 {
		if err := mem.PublishLogs(ctx, nodes["a"], batch); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := mem.WaitLogs(ctx, "a", QueueResults, 1); err != nil || len(got) != 1 {
		t.Errorf("got %v, %v", got, err)
	}
	testhelp.Equal(t, "repeats", mem.Repeats("a"), 1)
	testhelp.Equal(t, "lines of b", len(mem.Logs("b", QueueResults)), 0)
}

func TestMemoryWaitsAreBounded(t *testing.T) {
	mem := NewMemory()
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := mem.WaitLogs(ctx, "a", QueueResults, 1); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	if _, err := mem.Ask("a", "select 1")(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

func TestMemoryAsksWithDiscovery(t *testing.T) {
	mem := NewMemory()
	key, _ := mem.Enroll(t.Context(), EnrollRequest{Node: Node{Instance: "a"}})
	n := Node{Instance: "a", Key: key}
	mem.AskSet("a", QuerySet{Queries: map[string]string{"": "q"}, Discovery: map[string]string{"": "d"}, AccelerateSeconds: 5})
	set, err := mem.Queries(t.Context(), n)
	if err != nil || set.Queries["q1"] != "q" || set.Discovery["q1"] != "d" || set.AccelerateSeconds != 5 {
		t.Errorf("got %v, %v", set, err)
	}
	if set, _ = mem.Queries(t.Context(), n); len(set.Queries) != 0 {
		t.Errorf("asked twice: %v", set)
	}
}
