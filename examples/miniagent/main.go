// Command miniagent is a whole agent on one page: the tenants that a file names, each with an
// osqueryd of its own, on a server that speaks the agent's own protocol (transport), with a
// table of the host's, and an address for health, metrics and queries:
//
//	go run ./examples/miniagent -tenants tenants.json -server https://fleet.example.org
//	curl localhost:8642/healthz localhost:8642/metrics
//	curl localhost:8642/query -d instance=acme -d 'sql=select name, value from tenant_labels'
//
// The file maps ids to labels, as in {"acme": {"site": "berlin"}}, and may be replaced at any
// time: tenants come and go; new labels take no new osqueryd. It runs the osqueryd of
// -osqueryd, of $OSQUERYD or of PATH, and else a built-in fake, until Ctrl-C. The exit code
// is 1 when a part of it failed, and 2 for wrong flags.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/osquery/osquery-go/plugin/table"
	"golang.org/x/sync/errgroup"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/instance/osquerydtest"
	"github.com/osqvisor/osqvisor/runtime"
)

// patience is with a client that does not read: the instance's other queries wait meanwhile.
const patience = 5 * time.Second

type settings struct{ tenants, server, root, osqueryd string }

func main() {
	osquerydtest.Main() // the built-in osqueryd is this program under another name
	var s settings
	flag.StringVar(&s.tenants, "tenants", "tenants.json", "the file with the tenants and their labels")
	flag.StringVar(&s.server, "server", "http://localhost:8080", "the URL of the server")
	flag.StringVar(&s.root, "root", "osqvisor", "the directory for the instances' data")
	flag.StringVar(&s.osqueryd, "osqueryd", "", "the osqueryd to run, or \"fake\" for the built-in one")
	listen := flag.String("listen", "localhost:8642", "the address for health, metrics and queries")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the program at once
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", *listen)
	if err == nil {
		err = run(ctx, s, listener)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "miniagent:", err)
		os.Exit(1)
	}
}

// run keeps all parts of the agent going until ctx ends or one of them fails.
func run(ctx context.Context, s settings, listener net.Listener) (err error) {
	defer listener.Close()
	osqueryd, err := osquerydtest.Find(ctx, s.osqueryd)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, osqueryd.Close()) }()
	a := &agent{file: s.tenants, tenants: map[string]tenant{}}
	a.runner, err = runtime.New(
		runtime.WithBinary(osqueryd.Path), runtime.WithRoot(s.root), runtime.WithLogger(slog.Default()),
		runtime.WithTransport(&transport{base: s.server}),
	)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return a.runner.Run(ctx) })
	group.Go(func() error { return a.watch(ctx) })
	group.Go(func() error { return a.serve(ctx, listener) })
	return group.Wait()
}

type labels map[string]string

type tenant struct {
	labels  labels
	options []instance.Option
}

type agent struct {
	runner  *runtime.Runner
	file    string
	tenants map[string]tenant // by id
}

// watch looks at the file until ctx ends.
func (a *agent) watch(ctx context.Context) error {
	for seen := ""; ; {
		info, err := os.Stat(a.file)
		if err == nil && seen != fmt.Sprint(info.ModTime(), info.Size()) {
			seen = fmt.Sprint(info.ModTime(), info.Size())
			err = a.load(ctx)
		}
		if err != nil && ctx.Err() == nil {
			slog.Error("the tenants are not what the file says", "err", err)
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return nil
		}
	}
}

// load makes the set of instances the one that the file names.
func (a *agent) load(ctx context.Context) error {
	text, err := os.ReadFile(a.file)
	if err != nil {
		return err
	}
	var want map[string]labels
	if err := json.Unmarshal(text, &want); err != nil {
		return fmt.Errorf("%s: %w", a.file, err)
	}
	options := map[string][]instance.Option{}
	for id, l := range want {
		if now, ok := a.tenants[id]; !ok || !maps.Equal(now.labels, l) {
			a.tenants[id] = tenant{l, []instance.Option{instance.WithLabels(l), instance.WithTables(l.table())}}
		}
		options[id] = a.tenants[id].options
	}
	_, err = a.runner.Sync(ctx, options) // the answer is what became of each
	return err
}

// table lets queries join with what the host knows of the tenant.
func (l labels) table() extension.Table {
	columns := []table.ColumnDefinition{table.TextColumn("name"), table.TextColumn("value")}
	return table.NewPlugin("tenant_labels", columns, func(context.Context, table.QueryContext) (rows []map[string]string, err error) {
		for name, value := range l {
			rows = append(rows, map[string]string{"name": name, "value": value})
		}
		return rows, nil
	})
}

// serve answers at the listener until ctx ends.
func (a *agent) serve(ctx context.Context, listener net.Listener) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", a.health)
	mux.HandleFunc("GET /metrics", a.metrics)
	mux.HandleFunc("POST /query", a.query)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: patience}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	if err := server.Serve(listener); stop() {
		return err // nobody closed it
	}
	return nil
}

// health answers which instances are not well, and why.
func (a *agent) health(w http.ResponseWriter, _ *http.Request) {
	summary := a.runner.Healthy()
	if !summary.Healthy {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(summary)
}

// metrics answers in the text format of Prometheus.
func (a *agent) metrics(w http.ResponseWriter, _ *http.Request) {
	for _, s := range a.runner.Snapshots() {
		fmt.Fprintf(w, "osqueryd_state{instance=%q,state=%q} 1\n", s.Instance, s.State)
		fmt.Fprintf(w, "osqueryd_restarts_total{instance=%q} %d\n", s.Instance, s.Totals.Restarts)
		for _, q := range s.Queues {
			fmt.Fprintf(w, "osqueryd_queue_bytes{instance=%q,queue=%q} %d\n", s.Instance, q.Queue, q.Bytes)
		}
	}
}

// query streams the rows as NDJSON. Why it failed is in the last line.
func (a *agent) query(w http.ResponseWriter, r *http.Request) {
	out, lines, begun := http.NewResponseController(w), json.NewEncoder(w), false
	err := a.runner.QueryEach(r.Context(), r.PostFormValue("instance"), r.PostFormValue("sql"), func(row instance.Row) error {
		begun = true
		return errors.Join(out.SetWriteDeadline(time.Now().Add(patience)), lines.Encode(row), out.Flush())
	})
	if err != nil {
		if !begun {
			w.WriteHeader(http.StatusBadGateway)
		}
		_ = lines.Encode(map[string]string{"error": err.Error()})
	}
}

// transport is the agent's own protocol: JSON at /INSTANCE/config, logs, queries and results.
type transport struct{ base string }

func (t *transport) Config(ctx context.Context, node extension.Node) (config map[string]string, err error) {
	err = t.call(ctx, http.MethodGet, node, "config", nil, &config)
	return config, err
}

func (t *transport) PublishLogs(ctx context.Context, node extension.Node, batch extension.Batch) error {
	return t.call(ctx, http.MethodPost, node, "logs", batch, nil)
}

func (t *transport) Queries(ctx context.Context, node extension.Node) (set extension.QuerySet, err error) {
	err = t.call(ctx, http.MethodGet, node, "queries", nil, &set)
	return set, err
}

func (t *transport) WriteResults(ctx context.Context, node extension.Node, results []extension.Result) error {
	return t.call(ctx, http.MethodPost, node, "results", results, nil)
}

// call takes 204 alone for an acknowledgement: a gateway on the way may answer 200.
func (t *transport) call(ctx context.Context, method string, node extension.Node, what string, send, receive any) error {
	body, err := json.Marshal(send)
	if err != nil {
		return fmt.Errorf("%s: %w: %w", what, extension.ErrPermanent, err)
	}
	address := t.base + "/" + url.PathEscape(node.Instance) + "/" + what
	req, err := http.NewRequestWithContext(ctx, method, address, bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if receive != nil && resp.StatusCode == http.StatusOK {
		return json.NewDecoder(http.MaxBytesReader(nil, resp.Body, 8<<20)).Decode(receive)
	}
	detail, _ := io.ReadAll(io.LimitReader(resp.Body, 200)) // for the error alone
	if err := extension.StatusError(resp.StatusCode, resp.Header, string(detail)); err != nil || resp.StatusCode == http.StatusNoContent {
		return err
	}
	return fmt.Errorf("%s: %s is no acknowledgement", what, resp.Status)
}
