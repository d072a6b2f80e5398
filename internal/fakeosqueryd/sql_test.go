package fakeosqueryd

import (
	"bytes"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func testEngine(t *testing.T, tables ...Table) *engine {
	t.Helper()
	p := New(Config{Args: []string{"osqueryd"}, Stdout: &bytes.Buffer{}, Stderr: &bytes.Buffer{}, Tables: tables})
	return newWorker(p).sql
}

func TestSQL(t *testing.T) {
	fruit := Table{Name: "fruit", Columns: []string{"name", "n"}, Rows: []map[string]string{
		{"name": "Apple", "n": "10"}, {"name": "pear", "n": "9"}, {"name": "it's", "n": "1"},
	}}
	e := testEngine(t, fruit)
	tests := []struct {
		sql  string
		want rows
		err  string
	}{
		{sql: "", want: nil},
		{sql: " ; ;", want: nil},
		{sql: "SELECT 1", want: rows{{"1": "1"}}},
		{sql: "select 'x' as y, 2;", want: rows{{"y": "x", "2": "2"}}},
		{sql: "SELECT 1; SELECT 2", want: rows{{"1": "1"}, {"2": "2"}}},
		{sql: "SELECT * FROM fruit WHERE name = 'it''s'", want: rows{{"name": "it's", "n": "1"}}},
		{sql: "SELECT NAME FROM Fruit WHERE n < 10", want: rows{{"name": "pear"}, {"name": "it's"}}},
		{sql: "SELECT f.name FROM fruit WHERE n = 9 AND name LIKE 'P%'", want: rows{{"name": "pear"}}},
		{sql: "SELECT n FROM fruit WHERE name IN ('pear', 'Apple') ORDER BY n", want: rows{{"n": "9"}, {"n": "10"}}},
		{sql: "SELECT n FROM fruit ORDER BY n DESC LIMIT 1", want: rows{{"n": "10"}}},
		{sql: "SELECT count(*) FROM fruit WHERE n != 9", want: rows{{"count(*)": "2"}}},
		{sql: "SELECT count(*) AS c FROM fruit -- comment", want: rows{{"c": "3"}}},
		{sql: "SELECT n FROM fruit WHERE 1 = 2", want: nil},
		{sql: "SELECT * FROM fake_rows WHERE n = 1", want: rows{{"n": "1", "id": "0", "name": "name-0", "value": "value of row 0", "path": "/opt/fake/rows/0"}}},
		{sql: "SELECT sleep(0)", want: rows{{"sleep(0)": "0"}}},
		{sql: "SELECT * FROM x", err: "no such table: x"},
		{sql: "SELECT x FROM fruit", err: "no such column: x"},
		{sql: "SELECT n FROM fruit WHERE x = 1", err: "no such column: x"},
		{sql: "foo bar", err: `near "foo": syntax error`},
		{sql: "SELECT * FROM", err: "incomplete input"},
		{sql: "SELECT * FROM fruit JOIN fruit", err: `near "JOIN": syntax error`},
		{sql: "SELECT nofunction(1)", err: "no such function: nofunction"},
		{sql: "SELECT 'open", err: `unrecognized token: "'open"`},
	}
	for _, tt := range tests {
		t.Run(tt.sql, func(t *testing.T) {
			got, err := e.query(tt.sql)
			if tt.err != "" {
				if err == nil || err.Error() != tt.err {
					t.Errorf("error %v, want %s", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.want, rows(got)); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestSQLColumns(t *testing.T) {
	e := testEngine(t)
	got, err := e.columns("SELECT pid AS p, version, 1, 1.5 f, 'x' FROM osquery_info")
	if err != nil {
		t.Fatal(err)
	}
	want := []column{{"p", "INTEGER"}, {"version", "TEXT"}, {"1", "INTEGER"}, {"f", "DOUBLE"}, {"'x'", "TEXT"}}
	if d := cmp.Diff(want, got, cmp.AllowUnexported(column{})); d != "" {
		t.Error(d)
	}
}

func TestDisabledTable(t *testing.T) {
	e := testEngine(t)
	if err := e.w.p.flags.set("disable_tables", "users,time"); err != nil {
		t.Fatal(err)
	}
	if _, err := e.query("SELECT * FROM users"); err == nil || err.Error() != "no such table: users" {
		t.Errorf("a disabled table: %v", err)
	}
	got, err := e.query("SELECT name FROM osquery_registry WHERE registry = 'table' AND name = 'users'")
	if err != nil || len(got) != 1 {
		t.Errorf("osquery_registry hides a disabled table: %v, %v", got, err)
	}
}

func FuzzSQL(f *testing.F) {
	for _, s := range []string{"SELECT 1", "SELECT * FROM users WHERE a='b' LIMIT 1;", "select count(*) as 'x", "select sleep(", "-- "} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, sql string) {
		if tokens, err := lex(sql); err == nil {
			for _, st := range splitStatements(tokens) {
				if s, err := parseSelect(st); err == nil && len(s.items) == 0 {
					t.Errorf("%q parses to nothing", sql)
				}
			}
		}
	})
}

func TestFlagTables(t *testing.T) {
	fs := newFlagSet()
	for _, f := range fs.all() {
		if _, err := f.kind.normalize(f.def); err != nil {
			t.Errorf("%s: default %q is no %s", f.name, f.def, f.kind)
		}
		if f.desc == "" {
			t.Errorf("%s has no description", f.name)
		}
	}
	for alias, name := range flagAliases {
		if _, ok := fs.flags[name]; !ok {
			t.Errorf("alias %s of unknown flag %s", alias, name)
		}
	}
	args := []string{"osqueryd", "-verbose", "--nodisable_audit", "--pidfile", "/x", "--thrift_timeout=0x10"}
	if fatal := fs.parseArgs(args, t.Output()).fatal(); fatal != "" {
		t.Error(fatal)
	}
	if !fs.bool("verbose") || fs.bool("disable_audit") || fs.str("pidfile") != "/x" || fs.num("thrift_timeout") != 16 {
		t.Error("gflags forms are not understood")
	}
	if got := fs.parseArgs([]string{"osqueryd", "--pidfile"}, t.Output()).fatal(); !strings.Contains(got, "is missing its argument") {
		t.Error(got)
	}
}

func TestDiffRows(t *testing.T) {
	a, b, c := map[string]string{"x": "a"}, map[string]string{"x": "b"}, map[string]string{"x": "c"}
	removed, added := diffRows(rows{a, a, b}, rows{a, c, b, c})
	if d := cmp.Diff(rows{a}, removed); d != "" {
		t.Errorf("removed: %s", d)
	}
	if d := cmp.Diff(rows{c, c}, added); d != "" {
		t.Errorf("added: %s", d)
	}
}

// A large answer is held once, and no larger one is made.
func TestTrial34LargeAnswerIsBounded(t *testing.T) {
	e := testEngine(t)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	got, err := e.query("SELECT * FROM fake_rows WHERE n = " + strconv.Itoa(maxFakeRows))
	runtime.ReadMemStats(&after)
	if err != nil || len(got) != maxFakeRows {
		t.Fatalf("%d rows, %v", len(got), err)
	}
	const most = 128 << 20
	if used := after.TotalAlloc - before.TotalAlloc; used > most {
		t.Errorf("it used %d MiB, more than %d", used>>20, most>>20)
	}
	if got, err := e.query("SELECT * FROM fake_rows WHERE n = " + strconv.Itoa(maxFakeRows+1)); err == nil {
		t.Errorf("an answer of %d rows was made", len(got))
	}
}

// All of a row is that row, but for what the table does not have.
func TestStarIsTheTablesColumns(t *testing.T) {
	content := []map[string]string{{"a": "1", "c": "3"}, {"a": "1", "b": "2"}}
	e := testEngine(t, Table{Name: "odd", Columns: []string{"a", "b"}, Rows: content})
	got, err := e.query("SELECT * FROM odd")
	want := rows{{"a": "1", "b": ""}, {"a": "1", "b": "2"}}
	if diff := cmp.Diff(want, rows(got)); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}
