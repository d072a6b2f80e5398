package remoteapi_test

import (
	"strings"
	"testing"
	"time"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/extension/remoteapi"
)

// TestHostIdentifier: hosts enrol under names that tell them apart, or not at all.
func TestHostIdentifier(t *testing.T) {
	of := func(instance string, details map[string]map[string]string) extension.EnrollRequest {
		return extension.EnrollRequest{Node: extension.Node{Instance: instance}, HostDetails: details}
	}
	info := map[string]map[string]string{"osquery_info": {"uuid": "of-the-hardware", "instance_id": "of-this-database"}}
	named := of("vendor", info)
	named.Node.HostIdentifier = "named"
	byLabel := remoteapi.WithHostIdentifier(func(n extension.Node) string { return n.Labels["name"] })
	for _, c := range []struct {
		what string
		req  extension.EnrollRequest
		opts []remoteapi.Option
		want string // the identifier, or after "!" a part of the error
	}{
		{"specified", named, nil, "named"},
		{"osqueryd's own", of("vendor", info), nil, "of-this-database"},
		{"osqueryd is not there", of("vendor", nil), nil, "!WithHostIdentifier"},
		{"osqueryd has none", of("vendor", map[string]map[string]string{"osquery_info": {"instance_id": ""}}), nil, "!instance_id"},
		{"the function has none", named, []remoteapi.Option{byLabel}, "!gave instance"},
	} {
		server, client := serve(t, c.opts...)
		_, err := client.Enroll(within(t, 10*time.Second), c.req)
		if text, fails := strings.CutPrefix(c.want, "!"); fails {
			if err == nil || !strings.Contains(err.Error(), text) || len(server.Requests()) != 0 {
				t.Errorf("%s: %v, after %d requests", c.what, err, len(server.Requests()))
			}
		} else if err != nil || server.Enrolments(c.want) != 1 {
			t.Errorf("%s: %v, enrolled %d times as %q", c.what, err, server.Enrolments(c.want), c.want)
		}
	}
}
