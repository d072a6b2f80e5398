package plugin

import (
	"strings"
	"testing"
)

// What is written anew is never longer than what came: U+2028 took twice its bytes.
func TestTrial11RewrittenConfigDoesNotOutgrowTheLimit(t *testing.T) {
	const limit = 4096
	begin, end := `{"options":{"socket":"x"},"schedule":{"`, `":{"query":"select 1","interval":60}}}`
	text := begin + strings.Repeat("\u2028", (limit-2-len(begin)-len(end))/3) + end
	src := &source{config: map[string]string{"main": text}}
	r := newRig(t, t.TempDir(), configFrom(src), withConfigLimit(limit))
	got, status := r.config()
	equal(t, "status", status.Message, "OK")
	if strings.Contains(got["main"], "socket") || len(got["main"]) > limit {
		t.Errorf("osqueryd is handed %d bytes: %.60q", len(got["main"]), got["main"])
	}
}
