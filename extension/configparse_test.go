package extension

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestParseConfigRefuses(t *testing.T) {
	deep := func(n int) string {
		return `{"x":` + strings.Repeat("[", n-2) + "1" + strings.Repeat("]", n-2) + "}"
	}
	for text, want := range map[string]string{
		``:                          "empty",
		"# only a comment":          "empty",
		`[]`:                        "not a JSON object",
		`{`:                         "line",
		`{"a":1,"a":2}`:             `"a" is there twice`,
		"{\"a\":1,\n\"\\u0061\":2}": `line 2: the key "a" is there twice`,
		`{"a":1,}`:                  "name is missing",
		`{"a":1}{}`:                 "follows the end",
		`{"a":01}`:                  "not a JSON value",
		`{"a":1e999}`:               "too large",
		`{"a":"\u0000"}`:            "NUL",
		`{"a":"\ud800"}`:            "surrogate",
		`{"a":"\udc00"}`:            "surrogate",
		"{\"a\":\"\xff\"}":          "UTF-8",
		"{\"a\":\"\t\"}":            "control character",
		deep(33):                    "levels",
		`{"options":[]}`:            "options: is an array and should be an object",
		`{"schedule":[]}`:           "schedule: is an array",
		`{"schedule":{"q":1}}`:      "schedule.q: is a number",
		`{"schedule":{"q":{"query":"","interval":1}}}`:        "schedule.q.query: is empty",
		`{"schedule":{"q":{"query":"x","interval":0}}}`:       "schedule.q.interval: 0 is not from 1 to 604800",
		`{"schedule":{"q":{"query":"x","interval":604801}}}`:  "604801 is not",
		`{"schedule":{"q":{"query":"x","interval":"1.5"}}}`:   "not a whole number",
		`{"schedule":{"q":{"query":"x","interval":true}}}`:    "not a whole number",
		`{"schedule":{"q":{"query":"x","snapshot":"maybe"}}}`: "not true or false",
		`{"packs":{"p":1}}`:                             "packs.p: is a number",
		`{"packs":{"p":{"queries":{"q":{"query":1}}}}}`: "packs.p.queries.q.query",
		`{"packs":{"p":{"discovery":[1]}}}`:             "packs.p.discovery[0]",
		`{"decorators":{"load":"x"}}`:                   "decorators.load",
		`{"decorators":{"interval":{"61":["x"]}}}`:      "multiple of 60",
		`{"views":{"v":1}}`:                             "views.v",
		`{"file_paths":{"e":"x"}}`:                      "file_paths.e",
		`{"schedule":{"a":1,"b":2},"options":1}`:        "schedule.b",
		`{"a":"` + strings.Repeat("x", 1<<20) + `"}`:    "more than the limit",
		strings.Repeat("#\n", 4<<20):                    "4 times the limit",
	} {
		_, err := parseConfig("s", text, 1<<20)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), `config source "s"`) {
			t.Errorf("%.60q: %v, want %q", text, err, want)
		}
	}
}

func TestParseConfigAccepts(t *testing.T) {
	for text, want := range map[string]string{
		`{}`:                       `{}`,
		" {\n} ":                   " {\n} ",
		`{"anything":{"new":[1]}}`: `{"anything":{"new":[1]}}`,
		`{"schedule":null}`:        `{"schedule":null}`,
		"# c\n{\n  // d\n\"schedule\": {\"q\": {\"query\": \"a \\\nb\", \"interval\": \"5\", \"snapshot\": 1}}}": `{"schedule":{"q":{"query":"a b","interval":"5","snapshot":1}}}`,
		`{"a":"\ud83d\ude00"}`: `{"a":"\ud83d\ude00"}`,
		`{"x":` + strings.Repeat("[", 30) + "1" + strings.Repeat("]", 30) + "}": `{"x":` + strings.Repeat("[", 30) + "1" + strings.Repeat("]", 30) + "}",
	} {
		d, err := parseConfig("s", text, 1<<20)
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		equal(t, "text", d.text(), want)
	}
}

func FuzzParseConfig(f *testing.F) {
	for _, s := range []string{
		goodConfig, otherConfig, "# x\n{}",
		`{"packs":{"p":{"options":{"socket":"x"}}}}`, `{"a":"\u00e9\ud83d\ude00"}`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		d, err := parseConfig("s", text, 1<<16)
		if err != nil {
			return
		}
		d.strip(nil)
		d.changed = true
		out := d.text()
		var anything map[string]any
		if err := json.Unmarshal([]byte(out), &anything); err != nil {
			t.Fatalf("%q was accepted and became %q: %v", text, out, err)
		}
		again, err := parseConfig("s", out, 1<<20)
		if err != nil || again.text() != out {
			t.Fatalf("%q is not stable: %v", out, err)
		}
		if len(again.strip(nil)) != 0 {
			t.Fatalf("%q has owned options left", out)
		}
	})
}
