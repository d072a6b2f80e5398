package remoteapi_test

import (
	"testing"
	"time"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/extension/remoteapi"
	"github.com/osqvisor/osqvisor/internal/remoteapitest"
)

// sgtPaths are those that SGT serves.
func sgtPaths() remoteapi.Endpoints {
	return remoteapi.Endpoints{Enroll: "/node/enroll", Config: "/node/configure", Read: "/distributed/read", Write: "/distributed/write"}
}

// TestSGTAnswers are those of its handlers.
func TestSGTAnswers(t *testing.T) {
	server := start(t, remoteapitest.WithEndpoints(sgtPaths()))
	client := dial(t, server.URL(), remoteapi.WithTLS(server.ClientTLS()), remoteapi.ForSGT())
	node := extension.Node{Key: "key"}
	server.FailNext(remoteapitest.CallRead, 1, remoteapitest.Answer(200, `{"node_invalid":"false","queries":{"id1":"select 1"}}`))
	if got, err := client.Queries(within(t, 10*time.Second), node); err != nil || got.Queries["id1"] != "select 1" {
		t.Errorf("queries: %v, %v", got, err)
	}
	server.FailNext(remoteapitest.CallRead, 1, remoteapitest.Answer(200, `{"message":"no queries in list","status":"error"}`))
	if got, err := client.Queries(within(t, 10*time.Second), node); err != nil || len(got.Queries) != 0 {
		t.Errorf("no queries: %v, %v", got, err)
	}
	server.FailNext(remoteapitest.CallWrite, 1, remoteapitest.Answer(200, ""))
	if err := client.WriteResults(within(t, 10*time.Second), node, []extension.Result{{ID: "id1"}}); err != nil {
		t.Errorf("results: %v", err)
	}
}
