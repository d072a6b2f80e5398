package osquerydtest

import (
	"maps"
	"slices"
)

// decorators are the queries whose columns are added to each log line. They
// all run at each line here; osqueryd keeps the results of load and interval.
type decorators []string

func parseDecorators(v any) decorators {
	doc, _ := v.(map[string]any)
	var out decorators
	for _, kind := range []string{"load", "always"} {
		out = append(out, texts(doc[kind])...)
	}
	intervals, _ := doc["interval"].(map[string]any)
	for _, k := range slices.Sorted(maps.Keys(intervals)) {
		out = append(out, texts(intervals[k])...)
	}
	return out
}

func texts(v any) []string {
	list, _ := v.([]any)
	var out []string
	for _, e := range list {
		out = append(out, text(e))
	}
	return out
}

// decorations runs the decorators of all sources.
func (c *configState) decorations() map[string]string {
	if c.w.p.flags.bool("disable_decorators") {
		return nil
	}
	c.mu.Lock()
	var queries []string
	for _, source := range slices.Sorted(maps.Keys(c.decorators)) {
		queries = append(queries, c.decorators[source]...)
	}
	c.mu.Unlock()
	out := map[string]string{}
	for _, q := range queries {
		got, err := c.w.sql.query(q)
		if err == nil && len(got) > 0 {
			maps.Copy(out, got[0])
		}
	}
	return out
}
