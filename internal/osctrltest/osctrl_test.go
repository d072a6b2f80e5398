package osctrltest

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/extension/remoteapi"
	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/instance/osquerydtest"
	"github.com/osqvisor/osqvisor/runtime"
)

func TestMain(m *testing.M) {
	osquerydtest.Main()
	os.Exit(m.Run())
}

// recorder is the transport of the test: it notes what the server accepted.
type recorder struct {
	*remoteapi.Client
	mu    sync.Mutex
	nodes map[string]string // node identifier by instance
	rows  map[string][]string
	notes []string // of distributed queries
}

// PublishLogs notes the rows that the server should hold once it accepted the batch.
func (r *recorder) PublishLogs(ctx context.Context, node extension.Node, batch extension.Batch) error {
	if err := r.Client.PublishLogs(ctx, node, batch); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.nodes[node.Instance] = node.HostIdentifier
	for _, line := range batch.Lines {
		r.rows[node.Instance] = append(r.rows[node.Instance], rowOf(line))
	}
	return nil
}

// Queries notes what was asked.
func (r *recorder) Queries(ctx context.Context, node extension.Node) (extension.QuerySet, error) {
	set, err := r.Client.Queries(ctx, node)
	if len(set.Queries) > 0 || err != nil {
		r.note("%s was asked %v, %v", node.Instance, set.Queries, err)
	}
	return set, err
}

// WriteResults notes what was answered.
func (r *recorder) WriteResults(ctx context.Context, node extension.Node, results []extension.Result) error {
	err := r.Client.WriteResults(ctx, node, results)
	for _, result := range results {
		r.note("%s answered %s with status %d: %v", node.Instance, result.ID, result.Status, err)
	}
	return err
}

func (r *recorder) note(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.notes = append(r.notes, fmt.Sprintf(format, args...))
}

// line is a log line of either kind, as far as osctrl's tables keep it.
type line struct {
	Name     string          `json:"name"`
	Action   string          `json:"action"`
	Columns  json.RawMessage `json:"columns"`
	Snapshot json.RawMessage `json:"snapshot"`
	Severity json.RawMessage `json:"severity"` // a number, or in older versions a string
	Filename string          `json:"filename"`
	Line     json.RawMessage `json:"line"` // the same
	Message  string          `json:"message"`
	Version  string          `json:"version"`
}

// rowOf is one line in the form in which rows of the database are compared.
func rowOf(text []byte) string {
	var l line
	if err := json.Unmarshal(text, &l); err != nil {
		return "unreadable: " + string(text)
	}
	if l.Message != "" || l.Filename != "" {
		return strings.Join([]string{"status", plain(l.Severity), l.Filename, plain(l.Line), l.Version, l.Message}, "|")
	}
	rows := l.Columns
	switch {
	case len(l.Snapshot) > 0 && os.Getenv("OSCTRL_NO_SNAPSHOTS") != "":
		rows = nil
	case len(l.Snapshot) > 0:
		rows = l.Snapshot
	}
	return strings.Join([]string{"result", l.Name, l.Action, canonical(rows)}, "|")
}

func plain(number json.RawMessage) string { return strings.Trim(string(number), `"`) }

// canonical is JSON with its keys in order and without white space.
func canonical(text []byte) string {
	var v any
	if json.Unmarshal(text, &v) != nil {
		return string(text)
	}
	out, err := json.Marshal(v)
	if err != nil {
		return string(text)
	}
	return string(out)
}

// psql returns the rows of a query, each as its JSON object.
func psql(ctx context.Context, t *testing.T, dsn, query string) []map[string]string {
	t.Helper()
	cmd := exec.CommandContext(ctx, "psql", dsn, "-At", "-c", "select row_to_json(r) from ("+query+") r")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", query, err, out)
	}
	var rows []map[string]string
	for _, text := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		if text == "" {
			continue
		}
		row := map[string]any{}
		if err := json.Unmarshal([]byte(text), &row); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		texts := map[string]string{}
		for k, v := range row {
			texts[k] = fmt.Sprint(v)
		}
		rows = append(rows, texts)
	}
	return rows
}

// TestOsctrl runs three instances against an osctrl until it holds results, snapshots and
// status lines of each, and compares its rows with what it accepted: every row carries the
// identity of its node, nothing is missing, doubled or empty.
func TestOsctrl(t *testing.T) {
	server, environment, ca, dsn := os.Getenv("OSCTRL_URL"), os.Getenv("OSCTRL_ENV"), os.Getenv("OSCTRL_CA"), os.Getenv("OSCTRL_DSN")
	if server == "" {
		t.Skip("needs an osctrl: run make test-osctrl")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	trust, err := remoteapi.TLSConfig{RootCAFile: ca}.Build()
	if err != nil {
		t.Fatal(err)
	}
	client, err := remoteapi.New(server, remoteapi.ForOsctrl(environment), remoteapi.WithTLS(trust),
		remoteapi.WithEnrollSecret(remoteapi.EnrollSecret{Value: os.Getenv("OSCTRL_SECRET")}), remoteapi.WithGzip())
	if err != nil {
		t.Fatal(err)
	}
	rec := &recorder{Client: client, nodes: map[string]string{}, rows: map[string][]string{}}
	osqueryd, err := osquerydtest.Find(ctx, "")
	if err != nil {
		t.Fatal(err)
	}
	defer osqueryd.Close()
	t.Log(osqueryd.From)
	root, err := os.MkdirTemp("", "oc")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(root) }()
	ids := []string{"vendor", "tenant-a", "tenant-b"}
	opts := []runtime.Option{
		runtime.WithBinary(osqueryd.Path), runtime.WithRoot(filepath.Join(root, "r")), runtime.WithTransport(rec),
		runtime.WithInstanceDefaults(instance.WithDistributed(extension.Distributed{Interval: 2 * time.Second}),
			instance.WithFlag("verbose", "true")),
	}
	for _, id := range ids {
		opts = append(opts, runtime.WithInstance(id))
	}
	runner, err := runtime.New(opts...)
	if err != nil {
		t.Fatal(err)
	}
	running, stop := context.WithCancel(ctx)
	defer stop()
	ran := make(chan error, 1)
	go func() { ran <- runner.Run(running) }()
	rec.waitForAllKinds(ctx, t, ids)
	answered := rec.waitForAnswers(ctx, t, dsn, len(ids))
	stop() // what is queued is delivered
	if err := <-ran; err != nil {
		t.Fatal(err)
	}
	rec.compare(ctx, t, dsn, ids)
	for _, row := range answered {
		if row["status"] != "0" || !strings.Contains(row["data"], "osctrl-was-here") {
			t.Errorf("the answer to the distributed query is %v", row)
		}
	}
}

// waitForAllKinds waits until the server accepted a result, a snapshot and a status line
// of every instance.
func (r *recorder) waitForAllKinds(ctx context.Context, t *testing.T, ids []string) {
	t.Helper()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		missing := r.missing(ids)
		if len(missing) == 0 {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("the server did not get %v", missing)
		}
	}
}

func (r *recorder) missing(ids []string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var missing []string
	for _, id := range ids {
		for _, kind := range []string{"status|", "|added|", "|snapshot|"} {
			if !slices.ContainsFunc(r.rows[id], func(row string) bool { return strings.Contains(row, kind) }) {
				missing = append(missing, id+": "+kind)
			}
		}
	}
	return missing
}

// waitForAnswers waits until every node has answered the distributed query of the script.
func (r *recorder) waitForAnswers(ctx context.Context, t *testing.T, dsn string, count int) []map[string]string {
	t.Helper()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		rows := psql(ctx, t, dsn, "select uuid, data, status from osquery_query_data")
		if len(rows) >= count {
			return rows
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			r.mu.Lock()
			notes := slices.Clone(r.notes)
			r.mu.Unlock()
			t.Fatalf("%d of %d nodes answered the distributed query: %v; %q", len(rows), count, rows, notes)
		}
	}
}

// compare holds the rows of the database against the lines that the server accepted.
func (r *recorder) compare(ctx context.Context, t *testing.T, dsn string, ids []string) {
	t.Helper()
	nodes := psql(ctx, t, dsn, "select uuid from osquery_nodes")
	if len(nodes) != len(ids) {
		t.Errorf("%d nodes enrolled: %v; want %d", len(nodes), nodes, len(ids))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, id := range ids {
		uuid := strings.ToUpper(r.nodes[id]) // osctrl keeps identifiers so
		if !slices.ContainsFunc(nodes, func(row map[string]string) bool { return row["uuid"] == uuid }) {
			t.Errorf("instance %s logs as %q, which is no node of the server: %v", id, uuid, nodes)
		}
		want := counted(r.rows[id])
		// osctrl stores after it has acknowledged.
		var got map[string]int
		for range 50 {
			if got = counted(stored(ctx, t, dsn, uuid)); maps.Equal(got, want) {
				break
			}
			pause(ctx)
		}
		t.Logf("%s (%s): %d rows in the database, %d lines accepted", id, uuid, total(got), total(want))
		report(t, id, got, want)
	}
	for _, table := range []string{"osquery_result_data", "osquery_status_data"} {
		strangers := psql(ctx, t, dsn, "select uuid from "+table+" where uuid not in (select uuid from osquery_nodes)")
		if len(strangers) > 0 {
			t.Errorf("%s has %d rows of no node, such as %v", table, len(strangers), strangers[0])
		}
	}
}

func pause(ctx context.Context) {
	timer := time.NewTimer(200 * time.Millisecond)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// stored returns a node's rows in the form of rowOf.
func stored(ctx context.Context, t *testing.T, dsn, uuid string) []string {
	t.Helper()
	var rows []string
	for _, row := range psql(ctx, t, dsn, "select name, action, columns from osquery_result_data where uuid = '"+uuid+"'") {
		rows = append(rows, strings.Join([]string{"result", row["name"], row["action"], canonical([]byte(row["columns"]))}, "|"))
	}
	const columns = "severity, filename, line, version, message"
	for _, row := range psql(ctx, t, dsn, "select "+columns+" from osquery_status_data where uuid = '"+uuid+"'") {
		line := []string{"status", row["severity"], row["filename"], row["line"], row["version"], row["message"]}
		rows = append(rows, strings.Join(line, "|"))
	}
	return rows
}

func counted(rows []string) map[string]int {
	counts := map[string]int{}
	for _, row := range rows {
		counts[row]++
	}
	return counts
}

func total(counts map[string]int) (n int) {
	for _, c := range counts {
		n += c
	}
	return n
}

func report(t *testing.T, id string, got, want map[string]int) {
	t.Helper()
	for row := range maps.Keys(mergedKeys(got, want)) {
		if got[row] != want[row] {
			t.Errorf("%s: %d times in the database, %d times accepted: %.300s", id, got[row], want[row], row)
		}
	}
}

func mergedKeys(a, b map[string]int) map[string]int {
	all := maps.Clone(a)
	for k, v := range b {
		all[k] = cmp.Or(all[k], v)
	}
	return all
}
