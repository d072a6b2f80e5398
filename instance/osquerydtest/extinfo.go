package osquerydtest

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"github.com/osquery/osquery-go/gen/osquery"
)

// extension is what has registered itself.
type extension struct {
	uuid osquery.ExtensionRouteUUID
	info osquery.InternalExtensionInfo
	// plugins by registry, with the routes given at registration
	plugins map[string]map[string]osquery.ExtensionPluginResponse
	checked bool // was pinged with success once
}

// minSDK is the oldest SDK that core accepts.
const minSDK = "1.7.7"

// versionAtLeast compares dotted numbers; an empty version passes.
func versionAtLeast(least, version string) bool {
	if version == "" {
		return true
	}
	return slices.CompareFunc(numbers(version), numbers(least), cmp.Compare[int]) >= 0
}

func numbers(version string) []int {
	var out []int
	for part := range strings.SplitSeq(version, ".") {
		digits := strings.TrimRight(part, "abcdefghijklmnopqrstuvwxyz-+ABCDEFGHIJKLMNOPQRSTUVWXYZ")
		n, _ := strconv.Atoi(digits)
		out = append(out, n)
	}
	return out
}
