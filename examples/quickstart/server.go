package main

import (
	"context"
	"fmt"
	"sync"

	"github.com/osqvisor/osqvisor/extension"
)

// config is what every instance is told to do: one row of the table time a second.
// A snapshot is logged each time, changed or not.
const config = `{"schedule": {"clock": {"query": "select hour, minutes, seconds from time", "interval": 1, "snapshot": true}}}`

// server stands for the host's connection to its server. Its methods are called from
// many goroutines at once.
type server struct {
	mu     sync.Mutex
	newest string
}

// transport is all that the SDK needs to know of it. A host with more to do
// implements extension.Transport; see examples/customtransport.
func (s *server) transport() extension.Transport {
	return extension.Funcs{ConfigFunc: s.config, LogsFunc: s.logs}
}

func (*server) config(_ context.Context, _ extension.Node) (map[string]string, error) {
	return map[string]string{"quickstart": config}, nil
}

// logs is handed batches of lines, in order, until it returns nil for each.
func (s *server) logs(_ context.Context, node extension.Node, batch extension.Batch) error {
	if batch.Queue == extension.QueueStatus {
		return nil // osqueryd's own words
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.newest = fmt.Sprintf("newest log line, of %s: %s\n", node.Instance, batch.Lines[len(batch.Lines)-1])
	return nil
}

func (s *server) newestLine() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.newest
}
