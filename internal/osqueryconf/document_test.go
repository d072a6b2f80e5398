package osqueryconf

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/osqvisor/osqvisor/internal/testhelp"
)

func TestParseConfigRefuses(t *testing.T) {
	deep := func(n int) string {
		return `{"x":` + strings.Repeat("[", n-2) + "1" + strings.Repeat("]", n-2) + "}"
	}
	for text, want := range map[string]string{
		``:                 "empty",
		"# only a comment": "empty",
		`[]`:               "not a JSON object",
		`{`:                "line",
		`{"a":1,}`:         "name is missing",
		`{"a":1}{}`:        "follows the end",
		`{"a":01}`:         "not a JSON value",
		`{"a":1e999}`:      "too large",
		`{"a":"\u0000"}`:   "NUL",
		`{"a":"\ud800"}`:   "surrogate",
		`{"a":"\udc00"}`:   "surrogate",
		"{\"a\":\"\xff\"}": "UTF-8",
		"{\"a\":\"\t\"}":   "control character",
		deep(33):           "levels",
		`{"a":"` + strings.Repeat("x", 1<<20) + `"}`: "more than the limit",
		strings.Repeat("#\n", 4<<20):                 "4 times the limit",
	} {
		_, err := Parse("s", text, 1<<20)
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
		d, err := Parse("s", text, 1<<20)
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		testhelp.Equal(t, "text", d.Text(), want)
	}
}

// osqueryd dies of these, or loses every query beside the bad part; the sources are those of 5.23.
func TestTrial29RefusesWhatEndsOsqueryd(t *testing.T) {
	for text, want := range map[string]string{
		`{"decorators":{"interval":{"0":["select 1"]}}}`:                       "decorators.interval.0: is no number of seconds",
		`{"decorators":{"interval":{"hourly":["select 1"]}}}`:                  "divide by zero",
		`{"decorators":{"interval":{"-0":["select 1"]}}}`:                      "divide by zero",
		`{"packs":{"p":{"decorators":{"interval":{"":["select 1"]}}}}}`:        "packs.p.decorators.interval.",
		`{"packs":{"*":{"p":{"decorators":{"interval":{"0":["select 1"]}}}}}}`: "packs.*.p.decorators.interval.0",
		`{"events":[1]}`:                                          "events: is an array",
		`{"events":{"enable_subscribers":[1]}}`:                   "events.enable_subscribers[0]: is a number",
		`{"events":{"disable_subscribers":["a",null]}}`:           "events.disable_subscribers[1]: is null",
		`{"prometheus_targets":{"urls":"http://x"}}`:              "prometheus_targets.urls: is a string",
		`{"prometheus_targets":{"urls":[{}]}}`:                    "prometheus_targets.urls[0]: is an object",
		`{"yara":{"file_paths":{"a":"b"}}}`:                       "yara.file_paths.a: is a string",
		`{"schedule":{"q":{"version":"5.99999999999"}}}`:          "schedule.q.version",
		`{"packs":{"p":{"queries":{},"version":"2147483648.0"}}}`: "packs.p.version",
	} {
		_, err := Parse("s", text, 1<<20)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

// osqueryd leaves these parts out alone, and so they cost nobody else anything.
func TestTrial29PassesAndNotesWhatOsquerydSkips(t *testing.T) {
	for text, want := range map[string]string{
		`{"options":[]}`:                                      "options: is an array and should be an object",
		`{"schedule":[]}`:                                     "schedule: is an array",
		`{"schedule":{"q":1}}`:                                "schedule.q: is a number",
		`{"schedule":{"q":{"interval":60}}}`:                  "schedule.q: has no query",
		`{"schedule":{"q":{"query":"","interval":1}}}`:        "schedule.q.query: is empty",
		`{"schedule":{"q":{"query":"x","interval":0}}}`:       "schedule.q.interval: 0 is not from 1 to 604800",
		`{"schedule":{"q":{"query":"x","interval":null}}}`:    "schedule.q.interval: is not a whole number",
		`{"schedule":{"q":{"query":"x","interval":604801}}}`:  "604801 is not",
		`{"schedule":{"q":{"query":"x","interval":"1.5"}}}`:   "not a whole number",
		`{"schedule":{"q":{"query":"x","interval":true}}}`:    "not a whole number",
		`{"schedule":{"q":{"query":"x","shard":101}}}`:        "schedule.q.shard: 101 is not",
		`{"schedule":{"q":{"query":"x","snapshot":"maybe"}}}`: "schedule.q.snapshot: is not true or false",
		`{"schedule":{"q":{"query":"x","snapshot":"1"}}}`:     "schedule.q.snapshot: is not true or false",
		`{"packs":{"p":1}}`:                                   "packs.p: is a number",
		`{"packs":{"*":{"p":"x"}}}`:                           "packs.*.p: is a string",
		`{"packs":{"p":{"queries":{"q":{"query":1}}}}}`:       "packs.p.queries.q.query",
		`{"packs":{"p":{"discovery":[1]}}}`:                   "packs.p.discovery[0]",
		`{"decorators":{"load":"x"}}`:                         "decorators.load",
		`{"decorators":{"interval":{"61":["x"]}}}`:            "multiple of 60",
		`{"decorators":{"interval":{"0":[]}}}`:                "multiple of 60",
		`{"views":{"v":1}}`:                                   "views.v",
		`{"file_paths":{"e":"x"}}`:                            "file_paths.e",
	} {
		d, err := Parse("s", text, 1<<20)
		if err != nil {
			t.Errorf("%s is refused: %v", text, err)
			continue
		}
		testhelp.Equal(t, "text", d.Text(), text)
		if len(d.Ignored) != 1 || !strings.Contains(d.Ignored[0].Error(), want) {
			t.Errorf("%s: noted %v, want %q", text, d.Ignored, want)
		}
	}
}

// Of two queries of one name osqueryd runs the first.
func TestTrial29KeyThatIsThereTwice(t *testing.T) {
	for text, want := range map[string]string{
		`{"a":1,"a":2}`:                     `{"a":1}`,
		"{\"a\":{\"b\":1,\n\"\\u0062\":2}}": `{"a":{"b":1}}`,
		`{"options":{"utc":true,"utc":{"utc":1,"utc":2}},"options":{"db_path":"/x"}}`: `{"options":{"utc":true}}`,
	} {
		d, err := Parse("s", text, 1<<20)
		if err != nil {
			t.Errorf("%q is refused: %v", text, err)
			continue
		}
		testhelp.Equal(t, "text", d.Text(), want)
		if len(d.Ignored) == 0 || !strings.Contains(d.Ignored[0].Reason, "is there twice") {
			t.Errorf("%q: noted %v", text, d.Ignored)
		}
	}
}

// However many mistakes there are, their list is short, and says so.
func TestTrial29NotesAreBounded(t *testing.T) {
	d, err := Parse("s", `{"schedule":{"q":1`+strings.Repeat(`,"q":1`, 100)+`}}`, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	testhelp.Equal(t, "notes", len(d.Ignored), maxShapeErrors+1)
	testhelp.Equal(t, "the last", d.Ignored[maxShapeErrors].Reason, "81 more parts are ignored")
}

func FuzzParseConfig(f *testing.F) {
	for _, s := range []string{
		`{"schedule":{"q":{"query":"select 1","interval":60}}}`, `{"schedule":{"q":{"query":"select 2","interval":"60"}}}`, "# x\n{}", "{\"\u2028\":{\"a\":1,\"a\":2}}",
		`{"packs":{"p":{"options":{"socket":"x"}}}}`, `{"a":"\u00e9\ud83d\ude00"}`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		d, err := Parse("s", text, 1<<16)
		if err != nil {
			return
		}
		d.Strip(nil)
		d.changed = true
		out := d.Text()
		if whole, _ := stripComments(text); len(out) > len(whole) {
			t.Fatalf("%q grew to %q", text, out)
		}
		var anything map[string]any
		if err := json.Unmarshal([]byte(out), &anything); err != nil {
			t.Fatalf("%q was accepted and became %q: %v", text, out, err)
		}
		again, err := Parse("s", out, 1<<20)
		if err != nil || again.Text() != out {
			t.Fatalf("%q is not stable: %v", out, err)
		}
		if len(again.Strip(nil)) != 0 {
			t.Fatalf("%q has owned options left", out)
		}
	})
}

func TestTrial11KeysAreReadAsTheyWere(t *testing.T) {
	for _, key := range []string{"\u2028\u2029", `a"b\c/`, "<>&", "\b\f\n\r\t\x01\x1f\x7f", "é😀"} {
		var back string
		if err := json.Unmarshal(appendJSONString(nil, key), &back); err != nil || back != key {
			t.Errorf("%q is written as %s and read as %q, %v", key, appendJSONString(nil, key), back, err)
		}
	}
}
