package thriftconn

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/osquery/osquery-go/gen/osquery"

	"github.com/osqvisor/osqvisor/internal/testhelp"
)

// queries answers each SQL text with rows of its own.
func answering(rows ...map[string]string) *fakeManager {
	return &fakeManager{query: func(string) *osquery.ExtensionResponse { return rowsResponse(rows...) }}
}

// sampleRows returns n rows of 5 columns.
func sampleRows(n int) []map[string]string {
	rows := make([]map[string]string, n)
	for i := range rows {
		rows[i] = map[string]string{
			"pid": fmt.Sprint(i), "name": fmt.Sprintf("process-%d", i), "path": "/usr/bin/process",
			"cmdline": strings.Repeat("x", i%40), "uid": "0",
		}
	}
	return rows
}

func TestQueryRows(t *testing.T) {
	testhelp.CheckLeaks(t)
	cases := map[string][]map[string]string{
		"none":             {},
		"one":              {{"1": "1"}},
		"many":             sampleRows(3000),
		"no columns":       {{}, {}, {}},
		"empty then full":  {{}, {"a": "1"}, {}, {"b": "2", "a": ""}},
		"ragged":           {{"a": "1", "b": "2"}, {"b": "3"}, {"c": "4", "a": "5"}, {"a": "", "b": "", "c": ""}, {}},
		"long name":        {{strings.Repeat("n", 3*maxBuffer): "v"}, {strings.Repeat("n", 3*maxBuffer): "w"}},
		"long value":       {{"v": strings.Repeat("v", 5*maxClaim)}, {"v": "short"}},
		"many columns":     {wide(500, ""), wide(500, "x"), wide(499, "y")},
		"bytes that break": {{"b": "\x00\xff\n\"", "é": "\x80"}},
	}
	for name, rows := range cases {
		t.Run(name, func(t *testing.T) {
			c := dialFake(t, answering(rows...))
			for range 2 { // the second uses pooled memory
				got, err := c.Query(testhelp.Context(t), "select")
				if err != nil {
					t.Fatal(err)
				}
				checkRows(t, got, rows)
			}
		})
	}
}

func wide(n int, value string) map[string]string {
	row := map[string]string{}
	for i := range n {
		row[fmt.Sprintf("column%d", i)] = value
	}
	return row
}

// checkRows compares every view of the rows with what was sent.
func checkRows(t *testing.T, got Rows, want []map[string]string) {
	t.Helper()
	if got.Len() != len(want) {
		t.Fatalf("%d rows instead of %d", got.Len(), len(want))
	}
	if d := cmp.Diff(want, mapsOf(got)); d != "" {
		t.Fatal(d)
	}
	for i, view := range got.All() {
		seen := 0
		for _, name := range got.Columns() {
			v, ok := got.View(i).Value(name)
			wantV, wantOK := want[i][name]
			if sameV, sameOK := view.Value(name); v != wantV || ok != wantOK || sameV != v || sameOK != ok {
				t.Fatalf("row %d column %q: %q %t instead of %q %t", i, name, v, ok, wantV, wantOK)
			}
			if ok {
				seen++
			}
		}
		if seen != len(want[i]) {
			t.Fatalf("row %d shows %d cells of %d", i, seen, len(want[i]))
		}
	}
}

func TestRowsOutOfRange(t *testing.T) {
	c := dialFake(t, answering(map[string]string{"a": "1"}))
	rows, err := c.Query(testhelp.Context(t), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []Rows{{}, rows} {
		if _, ok := r.View(0).Value("nosuch"); ok {
			t.Error("a column that does not exist has a value")
		}
		for _, i := range []int{-1, r.Len()} {
			row := r.View(i)
			if _, ok := row.Value("a"); ok || row.Map() != nil || row.Columns() != nil {
				t.Errorf("row %d of %d has content", i, r.Len())
			}
		}
	}
	if (Rows{}).Columns() != nil || (Rows{}).Len() != 0 {
		t.Error("the zero Rows has content")
	}
}

func TestQueryRefusal(t *testing.T) {
	testhelp.CheckLeaks(t)
	c := dialFake(t, &fakeManager{query: func(string) *osquery.ExtensionResponse {
		return &osquery.ExtensionResponse{Status: &osquery.ExtensionStatus{Code: 1, Message: "no such table: x"}}
	}})
	_, err := c.Query(testhelp.Context(t), "select * from x")
	var status *StatusError
	if !errors.As(err, &status) || status.Code != 1 || status.Message != "no such table: x" {
		t.Fatalf("got %v", err)
	}
	if err := queryEach(testhelp.Context(t), c, "", nil); !errors.As(err, &status) {
		t.Fatalf("got %v", err)
	}
	if err := ping(testhelp.Context(t), c); err != nil {
		t.Fatal(err)
	}
}

func TestQueryEach(t *testing.T) {
	testhelp.CheckLeaks(t)
	want := append(sampleRows(2500), map[string]string{"odd": "1"}, map[string]string{})
	want = append(want, sampleRows(1500)...)
	c := dialFake(t, answering(want...))
	var got []map[string]string
	var kept []Row
	err := queryEach(testhelp.Context(t), c, "", func(r Row) error {
		got = append(got, r.Map())
		kept = append(kept, r)
		return nil
	})
	if d := cmp.Diff(want, got); d != "" || err != nil {
		t.Fatalf("%v\n%s", err, d)
	}
	for i, r := range kept {
		if !cmp.Equal(want[i], r.Map()) {
			t.Fatalf("row %d changed after its callback", i)
		}
	}
	if err := ping(testhelp.Context(t), c); err != nil {
		t.Fatal(err)
	}
}

func TestQueryEachEndsWithTheCallersError(t *testing.T) {
	testhelp.CheckLeaks(t)
	c := dialFake(t, answering(sampleRows(20000)...))
	err := queryEach(testhelp.Context(t), c, "", func(Row) error { return errFake })
	if !errors.Is(err, errFake) {
		t.Fatalf("got %v", err)
	}
	if err := ping(testhelp.Context(t), c); !errors.Is(err, ErrBroken) {
		t.Fatalf("the rest of the answer is unread, yet the next call got %v", err)
	}
	small := dialFake(t, answering(sampleRows(2)...))
	if err := queryEach(testhelp.Context(t), small, "", func(Row) error { return errFake }); !errors.Is(err, errFake) {
		t.Fatalf("got %v", err)
	}
	if err := ping(testhelp.Context(t), small); err != nil {
		t.Fatalf("the answer was read, yet the next call got %v", err)
	}
}

func TestQueryEachPanicBreaksTheConnection(t *testing.T) {
	testhelp.CheckLeaks(t)
	c := dialFake(t, answering(sampleRows(20000)...))
	func() {
		defer func() {
			if v := recover(); v != "mine" {
				t.Errorf("the panic became %v", v)
			}
		}()
		_ = queryEach(testhelp.Context(t), c, "", func(Row) error { panic("mine") })
	}()
	if err := ping(testhelp.Context(t), c); !errors.Is(err, ErrBroken) {
		t.Fatalf("got %v", err)
	}
}
