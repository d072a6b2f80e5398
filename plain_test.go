package osqvisor_test

import (
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// private are words that this project once had meanings of its own for; see Plain English in CONTRIBUTING.md.
var private = regexp.MustCompile(`(?i)\b(gives?|is given|says? (that|so|what)|(is|are) told|tells? of|mend(s|ed|ing)?|took|naps?)\b`)

// giveUp is plain English.
var giveUp = regexp.MustCompile(`(?i)\b((is|are) given|given|gives?) up\b`)

// TestDocumentationIsPlain looks at what go doc prints of packages.
func TestDocumentationIsPlain(t *testing.T) {
	for _, pkg := range []string{
		"./runtime", "./stats", "./extension/remoteapi", "./extension/transporttest", "./internal/record", "./internal/spool", "./internal/process",
		"./internal/control", "./internal/emit", "./internal/glog", "./internal/osqueryconf", "./internal/osqueryflags",
		"./extension", "./instance", "./instance/osquerydtest", "./internal/plugin", "./internal/delivery", "./internal/guard",
		"./internal/thriftconn", "./internal/gameday", "./internal/soak", "./internal/bench", "./examples/customtransport",
		"./examples/gameday", "./examples/hostgroup", "./examples/miniagent", "./examples/quickstart", "./examples/tlsagent",
	} {
		out, err := exec.CommandContext(t.Context(), "go", "doc", "-all", pkg).Output()
		if err != nil || len(out) < 100 {
			t.Errorf("go doc -all %s: %d bytes, %v", pkg, len(out), err)
		}
		text := giveUp.ReplaceAllString(strings.Join(strings.Fields(string(out)), " "), "")
		for _, at := range private.FindAllStringIndex(text, -1) {
			t.Errorf("%s: %q in %q", pkg, text[at[0]:at[1]], text[max(0, at[0]-60):min(len(text), at[1]+30)])
		}
	}
}
