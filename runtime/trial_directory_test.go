package runtime_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/internal/plugin"
	"github.com/osqvisor/osqvisor/internal/testhelp"
	"github.com/osqvisor/osqvisor/runtime"
	"github.com/osqvisor/osqvisor/stats"
)

// What was queued when an instance got another directory is delivered, all of it and in order.
func TestTrial06UpdateOfTheDirectoryBringsTheQueueAlong(t *testing.T) {
	each(t, func(t *testing.T, d osqueryd) {
		mem := extension.NewMemory()
		mem.Fail(func(call string, _ extension.Node) error {
			if call == "logs" {
				return errors.New("the server is down")
			}
			return nil
		})
		h := newHost(t, d, runtime.WithInstance("tenant"), runtime.WithInstanceDefaults(instance.WithTransport(mem)))
		want := queueLines(t, filepath.Join(h.root, "tenant"), 162)
		h.run(t)
		h.ready(t, "tenant")
		other := filepath.Join(testhelp.Root(t), "elsewhere")
		if _, err := h.Update(testhelp.Context(t), "tenant", instance.WithDirectory(other)); err != nil {
			t.Fatal(err)
		}
		mem.Fail(nil)
		got, err := mem.WaitLogs(testhelp.Context(t), "tenant", extension.QueueResults, len(want))
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got[:len(want)], want) {
			t.Errorf("got %d lines, want %d", len(got), len(want))
		}
		h.stop()
		if left := testhelp.EventsOf[stats.QueueLeft](h.events, "tenant"); len(left) > 0 {
			t.Errorf("announced: %+v", left)
		}
	})
}

// queueLines fills the queue of results in an instance's directory.
func queueLines(t *testing.T, dir string, n int) []string {
	t.Helper()
	e, err := plugin.New(plugin.Settings{
		Dir: dir, Transport: extension.NewMemory(), Node: func() extension.Node { return extension.Node{Instance: "tenant"} },
	})
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for i := range n {
		lines = append(lines, fmt.Sprintf(`{"name":"q","n":%d}`, i))
		e.Call(testhelp.Context(t), "logger", e.Name(), map[string]string{"string": lines[i]})
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	return lines
}
