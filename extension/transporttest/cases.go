package transporttest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"

	"github.com/osqvisor/osqvisor/extension"
)

func cases() []testCase {
	return []testCase{
		{"Enroll", nil, enrolment},
		{"Config", []Feature{Configs}, configs},
		{"Logs/Order", []Feature{Logs}, order},
		{"Logs/Duplicates", []Feature{Logs}, duplicates},
		{"Logs/Retried", []Feature{Logs}, retried},
		{"Logs/Signature", []Feature{Logs, Signatures}, signature},
		{"Logs/Huge", []Feature{Logs}, huge},
		{"Logs/Least", []Feature{Logs}, least},
		{"Logs/Bytes", []Feature{Logs}, bytesOfLines},
		{"Logs/NotJSON", []Feature{Logs, NotJSON}, notJSON},
		{"Logs/Ownership", []Feature{Logs}, ownership},
		{"Queries", []Feature{Queries}, querySets},
		{"Results", []Feature{Queries}, results},
		{"Results/NoRows", []Feature{Queries}, noRows},
		{"Errors/Surface", nil, surface},
		{"Errors/RetryAfter", []Feature{RetryAfters}, retryAfter},
		{"Errors/NodeInvalid", []Feature{NodeInvalids}, nodeInvalid},
		{"Errors/Permanent", []Feature{Permanents}, permanent},
		{"Errors/TooLarge", []Feature{Logs, TooLarges}, tooLarge},
		{"Cancel/UnderWay", []Feature{Hangs}, cancellation},
		{"Cancel/Before", nil, ended},
		{"Cancel/Goroutines", []Feature{Hangs}, goroutines},
		{"Concurrency", nil, concurrency},
		{"Unsupported", nil, unsupported},
	}
}

// enrolment: every instance gets a key, and enrolling again works.
func enrolment(s *suite) {
	if _, ok := s.h.Transport().(extension.Enroller); !ok {
		s.Skipf("the transport is no Enroller")
	}
	keys := map[string]string{}
	for i := range 4 {
		instance := fmt.Sprintf("enroll-%d", i)
		key := s.node(instance).Key
		if other, used := keys[key]; used {
			s.Errorf("%s and %s got the same node key", other, instance)
		}
		keys[key] = instance
	}
	s.node("enroll-0")
	err := s.within("Enroll", callTimeout, func(context.Context) error {
		over, cancel := context.WithCancel(context.Background())
		cancel()
		node := extension.Node{Instance: "enroll-9", HostIdentifier: "enroll-9"}
		_, err := s.h.Transport().(extension.Enroller).Enroll(over, extension.EnrollRequest{Node: node})
		return err
	})
	if err == nil {
		s.Errorf("Enroll: nil although its context was over before the call")
	}
}

const instances = 16

// concurrency: many instances at once, and each sees and sends only its own.
func concurrency(s *suite) {
	var all sync.WaitGroup
	failures := make(chan error, instances)
	for i := range instances {
		instance := fmt.Sprintf("tenant-%02d", i)
		node := s.node(instance)
		if s.limits.Cannot[Configs] == "" {
			s.h.SetConfig(instance, s.sources(`{"of":"`+instance+`"}`, nil))
		}
		if s.limits.Cannot[Queries] == "" {
			s.h.SetQueries(instance, extension.QuerySet{Queries: map[string]string{instance: "select '" + instance + "'"}})
		}
		all.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
			defer cancel()
			failures <- s.live(ctx, node)
		})
	}
	s.must("all instances", func(context.Context) error { all.Wait(); return nil })
	for range instances {
		if err := <-failures; err != nil {
			s.Errorf("%v", err)
		}
	}
	for i := range instances {
		s.ownOnly(fmt.Sprintf("tenant-%02d", i))
	}
}

const rounds = 5

func roundBatch(instance string, i int) extension.Batch {
	return newBatch(instance, extension.QueueResults, uint64(i+1), fmt.Sprintf(`{"of":%q,"n":"%d"}`, instance, i))
}

// live is what one instance does; it runs beside the test's goroutine.
func (s *suite) live(ctx context.Context, node extension.Node) error {
	t := s.h.Transport()
	for i := range rounds {
		if s.limits.Cannot[Configs] == "" {
			got, err := t.Config(ctx, node)
			if want := s.sources(`{"of":"`+node.Instance+`"}`, nil); err != nil || !maps.Equal(got, want) {
				return fmt.Errorf("%s: Config gave %v, %w", node.Instance, got, orNone(err))
			}
		}
		if s.limits.Cannot[Queries] == "" {
			set, err := t.Queries(ctx, node)
			if err != nil {
				return fmt.Errorf("%s: Queries: %w", node.Instance, err)
			}
			for id := range set.Queries {
				if id != node.Instance {
					return fmt.Errorf("%s: Queries gave a query of %s", node.Instance, id)
				}
			}
		}
		if s.limits.Cannot[Logs] == "" {
			if err := t.PublishLogs(ctx, node, roundBatch(node.Instance, i)); err != nil {
				return fmt.Errorf("%s: PublishLogs: %w", node.Instance, err)
			}
		}
	}
	if s.limits.Cannot[Queries] != "" {
		return nil
	}
	return t.WriteResults(ctx, node, []extension.Result{{ID: node.Instance, Rows: []byte(`[]`)}})
}

func orNone(err error) error {
	if err == nil {
		return errors.New("without an error")
	}
	return err
}

func (s *suite) ownOnly(instance string) {
	s.Helper()
	if s.limits.Cannot[Logs] == "" {
		var want []extension.Batch
		for i := range rounds {
			want = append(want, roundBatch(instance, i))
		}
		s.same(instance, s.received(instance, extension.QueueResults), want)
	}
	if s.limits.Cannot[Queries] == "" {
		s.sameResults(instance, []extension.Result{{ID: instance, Rows: []byte(`[]`)}})
	}
}

// unsupported: what is declared as missing says so by its error.
func unsupported(s *suite) {
	node, t := s.node("unsupported"), s.h.Transport()
	check := func(f Feature, name string, call func(context.Context) error) {
		if s.limits.Cannot[f] == "" {
			return
		}
		if err := s.within(name, callTimeout, call); !errors.Is(err, extension.ErrUnsupported) {
			s.Errorf("%s: %v, but the harness declares that it cannot do %q: want ErrUnsupported", name, err, f)
		}
	}
	check(Configs, "Config", func(ctx context.Context) error { _, err := t.Config(ctx, node); return err })
	check(Logs, "PublishLogs", func(ctx context.Context) error {
		return t.PublishLogs(ctx, node, newBatch("unsupported", extension.QueueResults, 1, `{}`))
	})
	check(Queries, "Queries", func(ctx context.Context) error { _, err := t.Queries(ctx, node); return err })
	check(Queries, "WriteResults", func(ctx context.Context) error {
		return t.WriteResults(ctx, node, []extension.Result{{ID: "q"}})
	})
}

func (s *suite) config(node extension.Node) map[string]string {
	s.Helper()
	var got map[string]string
	s.must("Config", func(ctx context.Context) (err error) {
		got, err = s.h.Transport().Config(ctx, node)
		return err
	})
	return got
}

// sources returns a config in the form that the transport can carry.
func (s *suite) sources(main string, more map[string]string) map[string]string {
	if s.limits.Cannot[Sources] != "" {
		return map[string]string{s.limits.Source: main}
	}
	out := map[string]string{"main": main}
	maps.Copy(out, more)
	return out
}

// configs: what the server has is what arrives, to the byte, and always the latest.
func configs(s *suite) {
	s.can(Sources)
	node := s.node("config")
	for _, want := range []map[string]string{
		s.sources(`{}`, nil),
		s.sources(`{"schedule": {"up": {"query": "select * from uptime where a < 'ž'", "interval": 10}}}`,
			map[string]string{"zweite/Quelle ž": `{"options":{}}`}),
		s.sources(`{"schedule":{},  "filler":"`+strings.Repeat("x", 1<<20)+`"}`, nil),
		s.sources(`{"options":{"a":1.0}}`, nil),
	} {
		s.h.SetConfig("config", maps.Clone(want))
		got := s.config(node)
		s.sameConfig(got, want)
		clear(got) // the caller may do with it what it likes
		s.sameConfig(s.config(node), want)
	}
}

func (s *suite) sameConfig(got, want map[string]string) {
	s.Helper()
	if maps.Equal(got, want) {
		return
	}
	for name, document := range want {
		if got[name] != document {
			s.Errorf("Config: source %q arrived as %s, want %s", name, short([]byte(got[name])), short([]byte(document)))
		}
	}
	for name := range got {
		if _, found := want[name]; !found {
			s.Errorf("Config: source %q was never set", name)
		}
	}
}

func (s *suite) queries(node extension.Node) extension.QuerySet {
	s.Helper()
	var got extension.QuerySet
	s.must("Queries", func(ctx context.Context) (err error) {
		got, err = s.h.Transport().Queries(ctx, node)
		return err
	})
	return got
}

// querySets: queries, discovery and acceleration arrive exactly.
func querySets(s *suite) {
	node := s.node("queries")
	if got := s.queries(node); len(got.Queries) != 0 || len(got.Discovery) != 0 || got.AccelerateSeconds != 0 {
		s.Errorf("Queries: %+v when the server has none", got)
	}
	want := extension.QuerySet{Queries: map[string]string{
		"q1": "select 1", "id/with odd \"signs\" ž": "select 'ž\n<&>' as \"x\"", "long": "select '" + strings.Repeat("y", 64<<10) + "'",
	}}
	if s.can(Discovery) {
		want.Discovery = map[string]string{"q1": "select 1 where 'ž' > ''"}
	}
	if s.can(Accelerate) {
		want.AccelerateSeconds = 300
	}
	s.h.SetQueries("queries", extension.QuerySet{Queries: maps.Clone(want.Queries),
		Discovery: maps.Clone(want.Discovery), AccelerateSeconds: want.AccelerateSeconds})
	got := s.queries(node)
	if !maps.Equal(got.Queries, want.Queries) {
		s.Errorf("Queries: queries arrived as %s, want %s", short(fmt.Append(nil, got.Queries)), short(fmt.Append(nil, want.Queries)))
	}
	if !maps.Equal(got.Discovery, want.Discovery) {
		s.Errorf("Queries: discovery arrived as %v, want %v", got.Discovery, want.Discovery)
	}
	if got.AccelerateSeconds != want.AccelerateSeconds {
		s.Errorf("Queries: AccelerateSeconds arrived as %d, want %d", got.AccelerateSeconds, want.AccelerateSeconds)
	}
}

func sampleResults() []extension.Result {
	wide := bytes.Repeat([]byte(`{"path":"/usr/lib/x","size":"12345","hash":""},`), 40_000)
	large := append(append([]byte("["), wide...), `{}]`...)
	return []extension.Result{
		{ID: "none", Rows: json.RawMessage(`[]`)},
		{ID: "failed", Status: 1, Message: `no such table: "ž" <&>`, Rows: json.RawMessage(`[]`)},
		{ID: "nullish", Rows: json.RawMessage(`[{"a":"","b":null,"c":"NULL","d":0}]`),
			Stats: &extension.QueryStats{WallTimeMS: 1, UserTime: 2, SystemTime: 3, Memory: 1 << 40}},
		{ID: "unicode ž/\"q\"", Rows: json.RawMessage(`[ {"n":"žluťoučký 🐎","e":"\u017e\/<&>"} ]`), Message: "line\nbreak"},
		{ID: "large", Rows: large},
	}
}

// results: ids, statuses, messages, rows and stats arrive, all of them.
func results(s *suite) {
	node := s.node("results")
	want := sampleResults()
	s.must("WriteResults", func(ctx context.Context) error { return s.h.Transport().WriteResults(ctx, node, sampleResults()) })
	s.sameResults("results", want)
}

func (s *suite) sameResults(instance string, want []extension.Result) {
	s.Helper()
	got := map[string]extension.Result{}
	for _, r := range s.h.Results(instance) {
		got[r.ID] = r
	}
	if len(got) != len(want) {
		s.Errorf("%s: the server has %d results, want %d", instance, len(got), len(want))
	}
	for _, w := range want {
		g, found := got[w.ID]
		if !found {
			s.Errorf("%s: result %q has not arrived", instance, w.ID)
			continue
		}
		if g.Status != w.Status || g.Message != w.Message {
			s.Errorf("%s: result %q: status %d, message %q, want %d, %q", instance, w.ID, g.Status, g.Message, w.Status, w.Message)
		}
		if !s.sameText(g.Rows, w.Rows) {
			s.Errorf("%s: result %q: rows arrived as %s, want %s", instance, w.ID, short(g.Rows), short(w.Rows))
		}
		if w.Stats != nil && s.can(Stats) && (g.Stats == nil || *g.Stats != *w.Stats) {
			s.Errorf("%s: result %q: stats arrived as %+v, want %+v", instance, w.ID, g.Stats, *w.Stats)
		}
	}
}

// noRows: results without rows arrive. The extension never hands over no results.
func noRows(s *suite) {
	node := s.node("no-rows")
	s.must("WriteResults without rows", func(ctx context.Context) error {
		return s.h.Transport().WriteResults(ctx, node, []extension.Result{{ID: "q", Status: 1, Message: "denylisted"}})
	})
	got := s.h.Results("no-rows")
	if len(got) != 1 || got[0].ID != "q" || got[0].Status != 1 || got[0].Message != "denylisted" {
		s.Errorf("a result without rows arrived as %+v", got)
	}
}
