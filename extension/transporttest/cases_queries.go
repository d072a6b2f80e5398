package transporttest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strings"

	"github.com/osqvisor/osqvisor/extension"
)

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
