package osquerydtest_test

import (
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/osqvisor/osqvisor/instance/osquerydtest"
)

func TestVersionAndFlagErrors(t *testing.T) {
	fake := osquerydtest.Start(t)
	tests := []struct {
		args   []string
		code   int
		output string
	}{
		{[]string{"--version"}, 0, "osqueryd version 5.23.0"},
		{[]string{"--help"}, 0, "    --extensions_socket VALUE "},
		{[]string{"--helpxml"}, 1, "<name>watchdog_max_delay</name>"},
		{[]string{"--nosuchflag=1"}, 1, "ERROR: unknown command line flag 'nosuchflag'"},
		{[]string{"--schedule_timeout=xyz"}, 1, "ERROR: illegal value 'xyz' specified for uint64 flag 'schedule_timeout'"},
		{[]string{"--flagfile=/no/such"}, 1, "/no/such: No such file or directory"},
		{[]string{"--alarm_timeout", "5"}, 1, "Alarm timeout cannot be lower than 10 seconds"},
	}
	for _, tt := range tests {
		t.Run(strings.Join(tt.args, " "), func(t *testing.T) {
			cmd := exec.CommandContext(testContext(t), fake.Path(), tt.args...)
			out, _ := cmd.CombinedOutput()
			if got := cmd.ProcessState.ExitCode(); got != tt.code {
				t.Errorf("exit code %d, want %d", got, tt.code)
			}
			if !strings.Contains(string(out), tt.output) {
				t.Errorf("output lacks %q:\n%s", tt.output, out)
			}
		})
	}
}

func TestQueryThroughPlainClient(t *testing.T) {
	ctx := testContext(t)
	fake := osquerydtest.Start(t, osquerydtest.WithScript(fast))
	for _, watchdog := range []string{"--disable_watchdog=false", "--disable_watchdog"} {
		t.Run(watchdog, func(t *testing.T) {
			dir := root(t)
			writeConf(t, dir, "{}")
			r := start(t, fake, dir, watchdog)
			r.ready(ctx)
			row, err := r.client().QueryRow("SELECT pid, version, watcher FROM osquery_info")
			if err != nil {
				t.Fatal(err)
			}
			if row["version"] != "5.23.0" || row["pid"] == "" {
				t.Errorf("osquery_info is %v", row)
			}
			if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			if code := r.code(ctx); code != 0 {
				t.Errorf("exit code %d after SIGTERM, want 0; stderr:\n%s", code, r.stderr)
			}
		})
	}
}
