package osquerydtest_test

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	gen "github.com/osquery/osquery-go/gen/osquery"
)

func answerText(r *gen.ExtensionResponse, err error) string {
	if err != nil {
		return "  error " + err.Error()
	}
	out := []string{fmt.Sprintf("  status %d %s", r.Status.Code, r.Status.Message)}
	for _, row := range r.Response {
		out = append(out, "  "+rowText(row))
	}
	return strings.Join(out, "\n")
}

func rowText(row map[string]string) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(row)) {
		parts = append(parts, fmt.Sprintf("%s=%q", k, row[k]))
	}
	return "{" + strings.Join(parts, " ") + "}"
}

func isZombie(pid int) bool {
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err != nil || strings.Contains(string(raw), ") Z ")
}

// Answers to queries and calls that any peer may make.
func TestDifferentialQueries(t *testing.T) {
	t.Parallel()
	differential(t, "queries", func(t *testing.T, s *subject, o *transcript) {
		d := s.up(t)
		for _, q := range []string{
			"", ";", "select 1", "select 1 as a, 'x' as b", "select null as n, '' as e", "select 1.5 as f, 10 as i",
			"select * from absent", "select absent from time", "select 1 aliased", "select 1 from from", "select", "delete from time",
			"select 1 as a; select 2 as a", "select 1 as a; select * from absent",
			"select count(*) as n from osquery_info", "select name from osquery_info",
			"select 'it''s' as q", "select config_valid, extensions from osquery_info", "select absent(1)", "select 1 limit x",
			"select uuid, name, path, type from osquery_extensions",
		} {
			o.add("%s", d.ask(q))
		}
	})
	differential(t, "calls", func(t *testing.T, s *subject, o *transcript) {
		d := s.up(t)
		c, err := dialShort(d.dir + "/em")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		call := func(reg, item string, req ...string) {
			m := map[string]string{}
			for i := 0; i+1 < len(req); i += 2 {
				m[req[i]] = req[i+1]
			}
			o.add("%s", d.scrub(fmt.Sprintf("call %s %s %s\n%s", reg, item, rowText(m), answerText(c.Call(reg, item, m)))))
		}
		update := func(data string) { call("config", "update", "action", "update", "source", "pushed", "data", data) }
		call("nothing", "x", "action", "generate")
		call("table", "nothing", "action", "generate")
		call("table", "time")
		call("table", "time", "action", "dance")
		call("logger", "nothing", "string", "x")
		call("distributed", "nothing", "action", "getQueries")
		call("config", "update")
		call("config", "update", "action", "dance")
		call("config", "update", "action", "update", "source", "pushed")
		update("")
		update("{}")
		update(`{"schedule": {"q": {"query": "select 1", "interval": 60}}}`)
		o.add("%s", d.ask("select name, query, interval from osquery_schedule"))
		update(`{"schedule": {`)
		o.add("%s", d.ask("select name, query, interval from osquery_schedule"))
		update(`{"schedule": {"q": {"query": "select 1", "interval": 60}}}`)
		update(`[]`)
		o.add("%s", d.ask("select config_valid from osquery_info"))
		call("database", "rocksdb", "action", "put", "domain", "configurations", "key", "k", "value", "v")
		call("database", "rocksdb", "action", "get", "domain", "configurations", "key", "k")
		call("database", "rocksdb", "action", "scan", "domain", "configurations", "prefix", "k")
		call("database", "rocksdb", "action", "remove", "domain", "configurations", "key", "k")
		call("database", "rocksdb", "action", "get", "domain", "configurations", "key", "k")
		call("database", "rocksdb", "action", "get", "domain", "nothing", "key", "k")
		call("database", "rocksdb", "action", "dance", "domain", "configurations", "key", "k")
		call("database", "rocksdb")
		o.add("stderr:\n%s", d.said())
	})
	differential(t, "columns", func(t *testing.T, s *subject, o *transcript) {
		d := s.up(t)
		c, err := dialShort(d.dir + "/em")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for _, table := range []string{
			"osquery_info", "osquery_registry", "osquery_flags", "osquery_extensions", "osquery_schedule", "osquery_packs", "time",
		} {
			res, err := c.Call("table", table, map[string]string{"action": "generate", "context": "{}"})
			if err != nil {
				t.Fatal(err)
			}
			o.add("call table %s: status %d %s", table, res.Status.Code, res.Status.Message)
			if len(res.Response) > 0 {
				o.add("  %s", slices.Sorted(maps.Keys(res.Response[0])))
			}
			cols, err := c.GetQueryColumns("select * from " + table)
			if err != nil {
				t.Fatal(err)
			}
			o.add("  status %d %s: %v", cols.Status.Code, cols.Status.Message, cols.Response)
		}
		for _, sql := range []string{
			"select 1", "select * from absent", "select 1 aliased", "", "select 1 as a, 'x' as b, null as c",
			"select count(*) as n from time", "select 1; select 2 as b",
		} {
			o.add("columns of %s\n%s", sql, answerText(c.GetQueryColumns(sql)))
		}
	})
}
