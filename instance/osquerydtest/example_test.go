package osquerydtest_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	osquery "github.com/osquery/osquery-go"

	"github.com/osqvisor/osqvisor/instance/osquerydtest"
)

// A program without a testing.TB makes a fake, starts it as a host would, and
// asks it something. Its main calls osquerydtest.Main first.
func Example() {
	fake, err := osquerydtest.New()
	if err != nil {
		fmt.Println(err)
		return
	}
	dir := filepath.Dir(fake.Path())
	if err := os.WriteFile(filepath.Join(dir, "conf"), []byte("{}"), 0o600); err != nil {
		fmt.Println(err)
		return
	}
	cmd := exec.Command(fake.Path(), instanceArgs(dir)...)
	if err := cmd.Start(); err != nil {
		fmt.Println(err)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	worker, err := fake.WaitWorker(ctx, "")
	if err != nil {
		fmt.Println(err)
		return
	}
	client, err := osquery.NewClient(worker.Socket(), 5*time.Second)
	if err != nil {
		fmt.Println(err)
		return
	}
	row, err := client.QueryRow("SELECT version FROM osquery_info")
	fmt.Println(row["version"], err)
	client.Close()

	_ = cmd.Process.Signal(os.Interrupt)
	fmt.Println(cmd.Wait(), fake.Close())
	// Output:
	// 5.23.0 <nil>
	// <nil> <nil>
}

// A fake that is killed by the watchdog twice, then behaves.
func ExampleScript_WithRule() {
	script := osquerydtest.Script{TimeScale: 0.1}.WithRule(osquerydtest.Rule{
		Phase:  osquerydtest.PhaseReady,
		Role:   osquerydtest.RoleWorker,
		Runs:   2,
		Action: osquerydtest.Action{Do: osquerydtest.Kill, Signal: 9},
	})
	fmt.Println(script.Validate(), script.Rules[0].Action)
	// Output: <nil> kill 9
}
