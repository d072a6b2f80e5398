package osquerydtest_test

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	osquery "github.com/osquery/osquery-go"
	"github.com/osquery/osquery-go/plugin/config"
	"github.com/osquery/osquery-go/plugin/distributed"
	"github.com/osquery/osquery-go/plugin/logger"
	"github.com/osquery/osquery-go/plugin/table"
)

// host is an extension made with a plain osquery-go server.
type host struct {
	t      *testing.T
	server *osquery.ExtensionManagerServer
	ended  chan struct{}

	logs    chan string
	results chan []distributed.Result
	// status lines, when wanted
	statuses chan string

	mu      sync.Mutex
	config  map[string]string
	queries *distributed.GetQueriesResult
	rows    []map[string]string
	logErr  error
}

func newHost(t *testing.T) *host {
	t.Helper()
	return &host{
		t: t, config: map[string]string{"main": "{}"}, queries: &distributed.GetQueriesResult{},
		logs: make(chan string, 1000), results: make(chan []distributed.Result, 100),
	}
}

// set changes the host under its lock.
func (h *host) set(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f()
}

// connect registers the extension "host" with plugins of that name and the
// table host_rows.
func (h *host) connect(dir string) {
	h.t.Helper()
	// The client polls for the socket every 200 ms; being here early is fine.
	server, err := osquery.NewExtensionManagerServer("host", filepath.Join(dir, "em"), osquery.ServerTimeout(5*time.Second))
	if err != nil {
		h.t.Fatal(err)
	}
	server.RegisterPlugin(
		config.NewPlugin("host", func(context.Context) (map[string]string, error) {
			h.mu.Lock()
			defer h.mu.Unlock()
			return h.config, nil
		}),
		logger.NewPlugin("host", func(_ context.Context, typ logger.LogType, text string) error {
			h.mu.Lock()
			defer h.mu.Unlock()
			if typ == logger.LogTypeString || typ == logger.LogTypeSnapshot {
				h.logs <- text
			}
			if typ == logger.LogTypeStatus && h.statuses != nil {
				h.statuses <- text
			}
			return h.logErr
		}),
		distributed.NewPlugin("host", func(context.Context) (*distributed.GetQueriesResult, error) {
			h.mu.Lock()
			defer h.mu.Unlock()
			return h.queries, nil
		}, func(_ context.Context, r []distributed.Result) error {
			h.results <- r
			return nil
		}),
		table.NewPlugin("host_rows", []table.ColumnDefinition{table.TextColumn("name"), table.IntegerColumn("n")},
			func(_ context.Context, q table.QueryContext) ([]map[string]string, error) {
				h.mu.Lock()
				defer h.mu.Unlock()
				if c := q.Constraints["name"].Constraints; len(c) > 0 {
					return []map[string]string{{"name": c[0].Expression, "n": "1"}}, nil
				}
				return h.rows, nil
			}),
	)
	h.server, h.ended = server, make(chan struct{})
	go func() {
		defer close(h.ended)
		_ = server.Start()
	}()
}

// vanish makes the extension unreachable without a word to core, as a death
// does.
func (h *host) vanish(dir string) {
	h.t.Helper()
	sockets, err := filepath.Glob(filepath.Join(dir, "em.*"))
	if err != nil || len(sockets) != 1 {
		h.t.Fatalf("extension sockets %v, error %v; want one", sockets, err)
	}
	if err := os.Remove(sockets[0]); err != nil {
		h.t.Fatal(err)
	}
}

// nextLog waits for a result line.
func (h *host) nextLog(ctx context.Context) string {
	h.t.Helper()
	select {
	case l := <-h.logs:
		return l
	case <-ctx.Done():
		h.t.Fatal("no log line")
		return ""
	}
}

func (h *host) noLog() {
	h.t.Helper()
	select {
	case l := <-h.logs:
		h.t.Errorf("unexpected log line %s", l)
	default:
	}
}

// hostFlags make a fake use the plugins of a host.
func hostFlags(more ...string) []string {
	return append([]string{
		"--config_plugin=host", "--logger_plugin=host", "--extensions_require=host", "--extensions_timeout=20",
	}, more...)
}
