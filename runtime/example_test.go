package runtime_test

import (
	"context"
	"fmt"
	"os"

	"github.com/osqvisor/osqvisor/instance/osquerydtest"
	"github.com/osqvisor/osqvisor/runtime"
)

// A Runner keeps a set of instances alive while its Run lasts; here on the fake
// osqueryd, which a program with osquerydtest.Main in its main function can be.
func Example() {
	if err := example(); err != nil {
		fmt.Println(err)
	}
	// Output:
	// vendor says hello
	// the set is healthy: true
	// stopped: <nil>
}

func example() error {
	fake, err := osquerydtest.New()
	if err != nil {
		return err
	}
	defer fake.Close()
	root, err := os.MkdirTemp("", "ov")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(root) }()

	runner, err := runtime.New(
		runtime.WithBinary(fake.Path()),
		runtime.WithRoot(root),
		runtime.WithInstance("vendor"),
	)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	done := make(chan error, 1)
	go func() { done <- runner.Run(ctx) }()

	if err := runner.Add("tenant-a"); err != nil { // at any moment
		return err
	}
	for _, id := range runner.IDs() {
		if err := runner.WaitReady(ctx, id); err != nil {
			return err
		}
	}
	rows, err := runner.Query(ctx, "vendor", "select 'hello' as word")
	if err != nil {
		return err
	}
	fmt.Println("vendor says", rows.Row(0).Get("word"))
	fmt.Println("the set is healthy:", runner.Healthy().Healthy)
	stop()
	fmt.Println("stopped:", <-done)
	return nil
}
