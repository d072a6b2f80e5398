package plugin

import (
	"context"
	"sync"
	"testing"

	"github.com/osqvisor/osqvisor/extension"
)

// registry is a transport that remembers who enrolled, and who asked with which key.
type registry struct {
	extension.Funcs
	mu    sync.Mutex
	names []string
	asked []extension.Node
}

func newRegistry() *registry {
	g := &registry{}
	g.ConfigFunc = func(_ context.Context, n extension.Node) (map[string]string, error) {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.asked = append(g.asked, n)
		return nil, nil
	}
	return g
}

func (g *registry) Enroll(_ context.Context, req extension.EnrollRequest) (string, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.names = append(g.names, req.Node.HostIdentifier)
	return "key-of-" + req.Node.HostIdentifier, nil
}

// TestTrial09KeyBelongsToTheIdentityThatEnrolled: when osqueryd logs under another name, because the host
// gave it one or its database is new, the old name's key is not used any more.
func TestTrial09KeyBelongsToTheIdentityThatEnrolled(t *testing.T) {
	g, dir := newRegistry(), t.TempDir()
	name := "one"
	node := func() extension.Node { return extension.Node{Instance: "a", HostIdentifier: name} }
	ask := func(r *rig, want string) {
		t.Helper()
		if _, status := r.config(); status.Code != 0 {
			t.Fatal(status.Message)
		}
		last := g.asked[len(g.asked)-1]
		equal(t, "key", last.Key, "key-of-"+want)
		equal(t, "name", last.HostIdentifier, want)
	}
	r := newRig(t, dir, withTransport(g), withNode(node))
	ask(r, "one")
	name = "two"
	ask(r, "two")
	r.shut()
	r = newRig(t, dir, withTransport(g), withNode(node))
	ask(r, "two")
	r.shut()
	name = "three"
	r = newRig(t, dir, withTransport(g), withNode(node))
	ask(r, "three")
	name = "" // osqueryd is not there that could be asked
	ask(r, "three")
	r.shut()
	r = newRig(t, dir, withTransport(g), withNode(node))
	ask(r, "three")
	equal(t, "enrolments", len(g.names), 3)
}

// TestTrial09EnrolsAsOsquerydsInstance: without a name of the host's it is the one that osqueryd logs.
func TestTrial09EnrolsAsOsquerydsInstance(t *testing.T) {
	g := newRegistry()
	r := newRig(t, t.TempDir(), withTransport(g), withHostDetails(func(context.Context) map[string]map[string]string {
		return map[string]map[string]string{"osquery_info": {"uuid": "of-the-hardware", "instance_id": "of-the-database"}}
	}))
	r.config()
	equal(t, "enrolled as", g.names[0], "of-the-database")
	equal(t, "asks as", g.asked[0].HostIdentifier, "of-the-database")
}
