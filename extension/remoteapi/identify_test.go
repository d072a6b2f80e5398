package remoteapi_test

import (
	"strings"
	"testing"
	"time"

	"github.com/osqvisor/osqvisor/extension"
)

// TestHostIdentifier: hosts enrol under names that tell them apart, or not at all.
func TestHostIdentifier(t *testing.T) {
	of := func(instance string, details map[string]map[string]string) extension.EnrollRequest {
		return extension.EnrollRequest{Node: extension.Node{Instance: instance}, HostDetails: details}
	}
	info := map[string]map[string]string{"osquery_info": {"uuid": "of-the-hardware", "instance_id": "of-this-database"}}
	named := of("vendor", info)
	named.Node.HostIdentifier = "named"
	for _, c := range []struct {
		what string
		req  extension.EnrollRequest
		want string // the identifier, or after "!" a part of the error
	}{
		{"specified", named, "named"},
		{"osqueryd's own", of("vendor", info), "of-this-database"},
		{"osqueryd is not there", of("vendor", nil), "!WithHostIdentifier"},
		{"osqueryd has none", of("vendor", map[string]map[string]string{"osquery_info": {"instance_id": ""}}), "!instance_id"},
	} {
		server, client := serve(t)
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
