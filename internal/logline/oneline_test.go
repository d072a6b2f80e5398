package logline

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

func FuzzTrial10OneLine(f *testing.F) {
	for _, seed := range []string{"{\"a\":\n\"b\\n\"}", "\n", "a\r\nb", "[1,\r2]", "\"\n\"", "{}", "{\"\xff\":\n1}"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		line := OneLine(text)
		spaced := strings.TrimRight(strings.NewReplacer("\r", " ", "\n", " ").Replace(text), " ")
		if json.Valid([]byte(text)) && strings.TrimRight(line, " ") != spaced {
			t.Fatalf("%q became %q", text, line)
		}
		if strings.ContainsAny(line, "\r\n") {
			t.Fatalf("%q became %q", text, line)
		}
		var before, after any
		if json.Unmarshal([]byte(text), &before) != nil {
			return
		}
		if err := json.Unmarshal([]byte(line), &after); err != nil || !reflect.DeepEqual(before, after) {
			t.Fatalf("%q became %q: %v", text, line, err)
		}
	})
}
