package instance_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/osquery/osquery-go/plugin/table"

	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/instance/osquerydtest"
	"github.com/osqvisor/osqvisor/stats"
)

// exampleFake makes an osqueryd that needs nothing installed, and a root for instances of it.
func exampleFake(script osquerydtest.Script) (osqueryd, root string, remove func()) {
	dir, err := os.MkdirTemp("", "ov")
	if err != nil {
		panic(err)
	}
	fake, err := osquerydtest.New(osquerydtest.WithDir(dir), osquerydtest.WithScript(script))
	if err != nil {
		panic(err)
	}
	return fake.Path(), filepath.Join(dir, "root"), func() {
		_ = fake.Close()
		_ = os.RemoveAll(dir)
	}
}

// One osqueryd is started, asked and stopped.
func ExampleInstance_Run() {
	osqueryd, root, remove := exampleFake(osquerydtest.Script{})
	defer remove()

	vendor, err := instance.New("vendor", instance.WithBinary(osqueryd), instance.WithRoot(root))
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, stop := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- vendor.Run(ctx) }()

	if err := vendor.WaitReady(ctx); err != nil {
		fmt.Println(err)
	}
	rows, err := vendor.Query(ctx, "select version from osquery_info")
	if err != nil {
		fmt.Println(err)
	}
	for _, row := range rows.All() {
		fmt.Println("osquery", row.Get("version"))
	}

	stop()
	fmt.Println("run:", <-ran) // when it has returned, nothing of the run is left
	fmt.Println("close:", vendor.Close(context.Background()))
	// Output:
	// osquery 5.23.0
	// run: <nil>
	// close: <nil>
}

// All mistakes in the options are reported at once, and errors.As finds the first.
func ExampleNew() {
	_, err := instance.New("../vendor", instance.WithBinary("osqueryd"), instance.WithRoot("data"))
	for _, name := range []string{"WithBinary", "WithRoot"} {
		fmt.Println(name, strings.Contains(err.Error(), name))
	}
	var mistake *instance.OptionError
	fmt.Println(errors.As(err, &mistake))
	// Output:
	// WithBinary true
	// WithRoot true
	// true
}

// A run that ends unasked says how far it came, and why it ended.
func ExampleExitError() {
	osqueryd, root, remove := exampleFake(osquerydtest.Script{}.WithRule(osquerydtest.Rule{
		Phase: osquerydtest.PhaseBeforeSocket, Action: osquerydtest.Action{Do: osquerydtest.Exit, Code: 9},
	}))
	defer remove()
	vendor, err := instance.New("vendor", instance.WithBinary(osqueryd), instance.WithRoot(root),
		instance.WithWatchdog(instance.Watchdog{Disabled: true}))
	if err != nil {
		fmt.Println(err)
		return
	}
	err = vendor.Run(context.Background())
	var exit *instance.ExitError
	if errors.As(err, &exit) {
		fmt.Printf("phase %s, cause %s, code %d\n", exit.Phase, exit.Cause, exit.Code)
		fmt.Println(exit.Cause == stats.CauseExit)
	}
	fmt.Println(vendor.Close(context.Background()))
	// Output:
	// phase connect, cause exit, code 9
	// true
	// <nil>
}

// A table of the host's own is there for queries while osqueryd runs.
func ExampleInstance_SetTables() {
	osqueryd, root, remove := exampleFake(osquerydtest.Script{})
	defer remove()
	vendor, err := instance.New("vendor", instance.WithBinary(osqueryd), instance.WithRoot(root))
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, stop := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- vendor.Run(ctx) }()
	if err := vendor.WaitReady(ctx); err != nil {
		fmt.Println(err)
	}

	agent := table.NewPlugin("agent", []table.ColumnDefinition{table.TextColumn("name")},
		func(context.Context, table.QueryContext) ([]map[string]string, error) {
			return []map[string]string{{"name": "example"}}, nil
		})
	if err := vendor.SetTables(ctx, agent); err != nil {
		fmt.Println(err)
	}
	rows, err := vendor.Query(ctx, "select name from agent")
	fmt.Println(rows.Maps(), err)

	stop()
	fmt.Println(<-ran, vendor.Close(context.Background()))
	// Output:
	// [map[name:example]] <nil>
	// <nil> <nil>
}

// CheckBinary tells what an osqueryd is before anything is started.
func ExampleCheckBinary() {
	osqueryd, _, remove := exampleFake(osquerydtest.Script{Version: "5.12.1"})
	defer remove()
	binary, err := instance.CheckBinary(context.Background(), osqueryd)
	fmt.Println(binary.Version, err)
	_, err = instance.CheckBinary(context.Background(), osqueryd+".missing")
	fmt.Println(errors.Is(err, instance.ErrBinaryMissing))
	// Output:
	// 5.12.1 <nil>
	// true
}
