package runtime_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/instance/osquerydtest"
	"github.com/osqvisor/osqvisor/runtime"
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

// Instances come and go while the Runner runs.
func ExampleRunner_Add() {
	osqueryd, root, remove := exampleFake(osquerydtest.Script{})
	defer remove()

	runner, err := runtime.New(runtime.WithBinary(osqueryd), runtime.WithRoot(root), runtime.WithInstance("vendor"))
	if err != nil {
		fmt.Println(err) // every mistake in the options, at once
		return
	}
	ctx, stop := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- runner.Run(ctx) }()

	if err := runner.Add("tenant-a"); err != nil {
		fmt.Println(err)
	}
	for _, id := range runner.IDs() {
		if err := runner.WaitReady(ctx, id); err != nil {
			fmt.Println(err)
		}
		rows, err := runner.Query(ctx, id, "select version from osquery_info")
		fmt.Println(id, rows.Maps(), err)
	}
	fmt.Println("remove:", runner.Remove(ctx, "tenant-a"))
	fmt.Println("left:", runner.IDs())

	stop()
	fmt.Println("run:", <-ran) // when it has returned, nothing is left
	// Output:
	// tenant-a [map[version:5.23.0]] <nil>
	// vendor [map[version:5.23.0]] <nil>
	// remove: <nil>
	// left: [vendor]
	// run: <nil>
}

// CollectRows puts osquery's texts into the fields of a struct; QueryEach hands over rows as
// they arrive.
func ExampleRunner_Query() {
	osqueryd, root, remove := exampleFake(osquerydtest.Script{})
	defer remove()

	runner, err := runtime.New(runtime.WithBinary(osqueryd), runtime.WithRoot(root), runtime.WithInstance("vendor"))
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, stop := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- runner.Run(ctx) }()
	if err := runner.WaitReady(ctx, "vendor"); err != nil {
		fmt.Println(err)
	}

	type info struct {
		Version string // the column version
		Pid     int    `osquery:"pid"`
	}
	rows, err := runner.Query(ctx, "vendor", "select version, pid from osquery_info")
	if err != nil {
		fmt.Println(err)
	}
	infos, err := instance.CollectRows[info](rows)
	if err != nil {
		fmt.Println(err)
	}
	fmt.Println(infos[0].Version, infos[0].Pid > 0)

	err = runner.QueryEach(ctx, "vendor", "select version from osquery_info", func(row instance.Row) error {
		fmt.Println(row.Get("version"))
		return nil
	})
	fmt.Println(err)

	stop()
	fmt.Println("run:", <-ran)
	// Output:
	// 5.23.0 true
	// 5.23.0
	// <nil>
	// run: <nil>
}

// The summary is what a health endpoint answers.
func ExampleRunner_Healthy() {
	osqueryd, root, remove := exampleFake(osquerydtest.Script{})
	defer remove()
	runner, err := runtime.New(runtime.WithBinary(osqueryd), runtime.WithRoot(root), runtime.WithInstance("vendor"))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(runner.Healthy().Healthy, runner.Healthy().Instances[0].State)

	ctx, stop := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- runner.Run(ctx) }()
	if err := runner.WaitReady(ctx, "vendor"); err != nil {
		fmt.Println(err)
	}
	fmt.Println(runner.Healthy().Healthy, runner.Healthy().Instances[0].State)
	stop()
	fmt.Println(<-ran)
	// Output:
	// false idle
	// true ready
	// <nil>
}

// An instance that fails too often is parked. It is tried again after a while, or when the
// host resumes it.
func ExampleRunner_Resume() {
	osqueryd, root, remove := exampleFake(osquerydtest.Script{}.WithRule(osquerydtest.Rule{
		Runs: 1, Phase: osquerydtest.PhaseBeforeSocket, Action: osquerydtest.Action{Do: osquerydtest.Exit, Code: 9},
	}))
	defer remove()
	runner, err := runtime.New(
		runtime.WithBinary(osqueryd),
		runtime.WithRoot(root),
		runtime.WithRestart(runtime.RestartPolicy{Budget: 1}),
		runtime.WithInstance("vendor", instance.WithWatchdog(instance.Watchdog{Disabled: true})),
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, stop := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- runner.Run(ctx) }()

	err = runner.WaitReady(ctx, "vendor")
	fmt.Println("parked:", errors.Is(err, runtime.ErrParked))
	fmt.Println("resume:", runner.Resume("vendor"))
	fmt.Println("ready:", runner.WaitReady(ctx, "vendor"))
	stop()
	fmt.Println("run:", <-ran)
	// Output:
	// parked: true
	// resume: <nil>
	// ready: <nil>
	// run: <nil>
}

// An observer is told what happens, in order for each instance.
func ExampleWithObserver() {
	osqueryd, root, remove := exampleFake(osquerydtest.Script{})
	defer remove()
	observer := stats.ObserverFunc(func(_ context.Context, e stats.Event) {
		switch e := e.(type) {
		case stats.RunReady:
			fmt.Println(e.Instance, "is ready")
		case stats.RunEnded:
			fmt.Println(e.Instance, "ended:", e.Cause)
		}
	})
	runner, err := runtime.New(
		runtime.WithBinary(osqueryd), runtime.WithRoot(root), runtime.WithObserver(observer), runtime.WithInstance("vendor"),
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, stop := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- runner.Run(ctx) }()
	if err := runner.WaitReady(ctx, "vendor"); err != nil {
		fmt.Println(err)
	}
	stop()
	fmt.Println("run:", <-ran)
	// Output:
	// vendor is ready
	// vendor ended: requested
	// run: <nil>
}

// One transport serves all instances: the Node says which of them is asking.
func ExampleWithTransport() {
	osqueryd, root, remove := exampleFake(osquerydtest.Script{})
	defer remove()
	asked := make(chan string, 16)
	transport := extension.Funcs{
		ConfigFunc: func(_ context.Context, node extension.Node) (map[string]string, error) {
			asked <- node.Instance + " of " + node.Labels["customer"]
			return map[string]string{"main": `{"schedule": {}}`}, nil
		},
	}
	runner, err := runtime.New(
		runtime.WithBinary(osqueryd), runtime.WithRoot(root), runtime.WithTransport(transport),
		runtime.WithInstance("vendor", instance.WithLabels(map[string]string{"customer": "us"})),
		runtime.WithInstance("tenant-a", instance.WithLabels(map[string]string{"customer": "them"})),
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, stop := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- runner.Run(ctx) }()
	fmt.Println(<-asked)
	fmt.Println(<-asked)
	stop()
	fmt.Println("run:", <-ran)
	// Unordered output:
	// vendor of us
	// tenant-a of them
	// run: <nil>
}

// An update replaces an instance's own options, and its answer reports what that took.
func ExampleRunner_Update() {
	osqueryd, root, remove := exampleFake(osquerydtest.Script{})
	defer remove()

	runner, err := runtime.New(runtime.WithBinary(osqueryd), runtime.WithRoot(root), runtime.WithInstance("vendor"))
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, stop := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- runner.Run(ctx) }()

	labels := instance.WithLabels(map[string]string{"team": "blue"})
	for _, opts := range [][]instance.Option{
		{labels},
		{labels, instance.WithHostIdentifier("host-7")},
		{labels, instance.WithHostIdentifier("host-7")},
		{}, // takes both back
	} {
		change, err := runner.Update(ctx, "vendor", opts...)
		fmt.Println("restarted:", change.Restarted, "changed:", change.Changed, err)
	}
	stop()
	fmt.Println("run:", <-ran)
	// Output:
	// restarted: false changed: [WithLabels] <nil>
	// restarted: true changed: [WithHostIdentifier] <nil>
	// restarted: false changed: [] <nil>
	// restarted: true changed: [WithLabels WithHostIdentifier] <nil>
	// run: <nil>
}

// Sync makes the set the one of a file or a server, whatever it was before.
func ExampleRunner_Sync() {
	osqueryd, root, remove := exampleFake(osquerydtest.Script{})
	defer remove()

	runner, err := runtime.New(runtime.WithBinary(osqueryd), runtime.WithRoot(root),
		runtime.WithInstance("tenant-a"), runtime.WithInstance("tenant-b"))
	if err != nil {
		fmt.Println(err)
		return
	}
	changes, err := runner.Sync(context.Background(), map[string][]instance.Option{
		"tenant-b": {instance.WithLabels(map[string]string{"tier": "gold"})},
		"tenant-c": nil,
	})
	for _, id := range []string{"tenant-a", "tenant-b", "tenant-c"} {
		fmt.Printf("%s %+v\n", id, changes[id])
	}
	fmt.Println(runner.IDs(), err)
	// Output:
	// tenant-a {Added:false Removed:true Restarted:false Changed:[]}
	// tenant-b {Added:false Removed:false Restarted:false Changed:[WithLabels]}
	// tenant-c {Added:true Removed:false Restarted:false Changed:[]}
	// [tenant-b tenant-c] <nil>
}

// Check reports every mistake before anything is touched.
func ExampleCheck() {
	osqueryd, root, remove := exampleFake(osquerydtest.Script{})
	defer remove()

	err := runtime.Check(runtime.WithBinary(osqueryd), runtime.WithRoot(root),
		runtime.WithInstance("tenant/a"),
		runtime.WithInstance("tenant-b", instance.WithFlag("no_such_flag", "true")))
	fmt.Println(err)
	_, err = os.Stat(root)
	fmt.Println("the root was made:", err == nil)
	// Output:
	// instance "tenant/a": id: the id "tenant/a" contains '/'; use letters, digits, dots, underscores and hyphens
	// instance "tenant-b": WithFlag: no_such_flag is not a flag of osqueryd 5.23.0, which would refuse to start
	// the root was made: false
}
