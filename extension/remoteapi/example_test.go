package remoteapi_test

import (
	"context"
	"fmt"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/extension/remoteapi"
	"github.com/osqvisor/osqvisor/internal/remoteapitest"
)

func Example() {
	server, err := remoteapitest.New()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer server.Close()
	client, err := remoteapi.New(server.URL(), remoteapi.WithTLS(server.ClientTLS()),
		remoteapi.WithEnrollSecret(remoteapi.EnrollSecret{Value: server.EnrollSecret()}))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.CloseIdleConnections()

	// The extension does this for every instance.
	ctx, node := context.Background(), extension.Node{Instance: "tenant-7", HostIdentifier: "host-1-tenant-7"}
	if node.Key, err = client.Enroll(ctx, extension.EnrollRequest{Node: node}); err != nil {
		fmt.Println(err)
		return
	}
	err = client.PublishLogs(ctx, node, extension.Batch{
		ID: "tenant-7/results/1-1", Queue: extension.QueueResults, First: 1, Last: 1,
		Lines: [][]byte{[]byte(`{"name":"uptime","columns":{"days":"3"}}`)},
	})
	fmt.Println(err, string(server.Batches("host-1-tenant-7")[0].Lines[0]))
	// Output: <nil> {"name":"uptime","columns":{"days":"3"}}
}
