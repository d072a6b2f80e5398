package osqvisor_test

import (
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// private are words that this project once had meanings of its own for; see Plain English in CONTRIBUTING.md.
var private = regexp.MustCompile(`(?i)\b(gives?|is given|says? (that|so|what)|(is|are) told|tells? of|mend(s|ed|ing)?|took|naps?)\b`)

// TestDocumentationIsPlain looks at what go doc prints of packages.
func TestDocumentationIsPlain(t *testing.T) {
	for _, pkg := range []string{
		"./runtime", "./stats", "./extension/remoteapi", "./extension/transporttest", "./internal/record", "./internal/spool", "./internal/process",
		"./internal/control", "./internal/emit", "./internal/glog", "./internal/osqueryconf", "./internal/osqueryflags",
	} {
		out, err := exec.CommandContext(t.Context(), "go", "doc", "-all", pkg).Output()
		if err != nil || len(out) < 100 {
			t.Errorf("go doc -all %s: %d bytes, %v", pkg, len(out), err)
		}
		for line := range strings.Lines(string(out)) {
			if found := private.FindString(line); found != "" {
				t.Errorf("%s: %q in %q", pkg, found, strings.TrimSpace(line))
			}
		}
	}
}
