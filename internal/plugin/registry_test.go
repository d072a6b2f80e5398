package plugin

import (
	"testing"

	"github.com/osqvisor/osqvisor/extension"
)

// Only a registration of the plugins makes an osqueryd one that has nothing yet.
func TestLookingAtTablesForgetsNoConfig(t *testing.T) {
	mem := extension.NewMemory()
	r := newRig(t, t.TempDir(), withTransport(mem))
	r.config()
	changed := func() bool {
		t.Helper()
		_, changed, err := r.FetchConfig(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return changed
	}
	equal(t, "changed at once", changed(), false)
	equal(t, "tables", r.HasTables(), false)
	equal(t, "table registry", len(r.TableRegistry()), 0)
	equal(t, "changed after a look at the tables", changed(), false)
	r.Registry()
	equal(t, "changed for an osqueryd that has nothing yet", changed(), true)
}
