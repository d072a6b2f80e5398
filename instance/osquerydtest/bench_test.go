package osquerydtest_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	osquery "github.com/osquery/osquery-go"

	"github.com/osqvisor/osqvisor/instance/osquerydtest"
)

// BenchmarkStartToSocket is the time from exec until the socket listens.
func BenchmarkStartToSocket(b *testing.B) {
	fake := osquerydtest.Start(b)
	dir := b.TempDir()
	for i := range b.N {
		id := strconv.Itoa(i)
		sub := filepath.Join(dir, id)
		args := append(instanceArgs(sub, "--disable_watchdog", "--logger_plugin=stdout"),
			"--extensions_socket="+filepath.Join(filepath.Dir(fake.Path()), "e"+id))
		if err := os.Mkdir(sub, 0o700); err != nil {
			b.Fatal(err)
		}
		cmd := exec.CommandContext(b.Context(), fake.Path(), args...)
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		p, err := fake.WaitProcess(b.Context(), func(p *osquerydtest.Process) bool {
			return p.PID() == cmd.Process.Pid && p.Passed(osquerydtest.PhaseAfterSocket)
		})
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		_ = p.Do(b.Context(), osquerydtest.Action{Do: osquerydtest.Exit})
		_ = cmd.Wait()
		b.StartTimer()
	}
}

// BenchmarkQuery is a small query of a plain client.
func BenchmarkQuery(b *testing.B) {
	fake := osquerydtest.Start(b)
	sock := filepath.Join(filepath.Dir(fake.Path()), "em")
	args := append(instanceArgs(b.TempDir(), "--disable_watchdog", "--logger_plugin=stdout"), "--extensions_socket="+sock)
	cmd := exec.CommandContext(b.Context(), fake.Path(), args...)
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	w, err := fake.WaitWorker(b.Context(), "")
	if err != nil {
		b.Fatal(err)
	}
	c, err := osquery.NewClient(sock, 5*time.Second)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	b.ResetTimer()
	for range b.N {
		if _, err := c.Query("SELECT 1"); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	_ = w.Do(b.Context(), osquerydtest.Action{Do: osquerydtest.Exit})
	_ = cmd.Wait()
}
