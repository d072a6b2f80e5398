package extension_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"os"

	"github.com/osqvisor/osqvisor/extension"
)

// A Transport from functions: configs from memory, logs to the standard output.
func ExampleFuncs() {
	transport := extension.Funcs{
		ConfigFunc: func(_ context.Context, _ extension.Node) (map[string]string, error) {
			return map[string]string{"main": `{"schedule":{}}`}, nil
		},
		LogsFunc: func(_ context.Context, _ extension.Node, batch extension.Batch) error {
			fmt.Println(batch.Queue, batch.First, batch.Last) // batch.ID is unique for ever
			_, err := batch.WriteTo(os.Stdout)
			return err
		},
	}
	// An instance calls it with what osqueryd logged.
	batch := extension.Batch{Queue: extension.QueueResults, First: 1, Last: 1, Lines: [][]byte{[]byte(`{"name":"q"}`)}}
	if err := transport.PublishLogs(context.Background(), extension.Node{Instance: "vendor"}, batch); err != nil {
		fmt.Println(err)
	}
	// Output:
	// results 1 1
	// {"name":"q"}
}

// A server checks that a batch is what the host's key signed.
func ExampleVerify() {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		fmt.Println(err)
		return
	}
	batch := extension.Batch{ID: "vendor/results/1-1", Queue: extension.QueueResults, First: 1, Last: 1, Lines: [][]byte{[]byte("{}")}}
	batch.Signature = ed25519.Sign(private, batch.SignedBytes())
	fmt.Println(extension.Verify(public, batch))
	batch.Lines[0] = []byte(`{"forged":1}`)
	fmt.Println(extension.Verify(public, batch))
	// Output:
	// <nil>
	// verify batch vendor/results/1-1: the batch does not match its signature
}

// Memory answers a distributed query when osqueryd does.
func ExampleMemory() {
	memory := extension.NewMemory()
	memory.SetConfig("vendor", map[string]string{"main": `{"options":{"verbose":true}}`})
	wait := memory.Ask("vendor", "select 1")
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // nobody runs it here
	_, err := wait(ctx)
	fmt.Println(err)
	// Output:
	// no answer to "q1": context canceled
}
