package instance_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/instance/osquerydtest"
	"github.com/osqvisor/osqvisor/stats"
)

// hostMain makes this program a host of one instance, to be killed by a test.
func hostMain() {
	root, binary := os.Getenv("OSQVISOR_TEST_ROOT"), os.Getenv("OSQVISOR_TEST_BINARY")
	if root == "" {
		return
	}
	opts := []instance.Option{instance.WithRoot(root), instance.WithBinary(binary)}
	if os.Getenv("OSQVISOR_TEST_ALONE") != "" {
		opts = append(opts, instance.WithoutKernelHelp())
	}
	in, err := instance.New("vendor", opts...)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	if runs, err := strconv.Atoi(os.Getenv("OSQVISOR_TEST_REAPER")); err == nil {
		reaperMain(in, runs)
	}
	go func() {
		if err := in.WaitReady(context.Background()); err == nil {
			fmt.Println("ready")
		}
	}()
	fmt.Println(in.Run(context.Background()))
	os.Exit(1)
}

// killedHost starts a host in a process of its own, and kills it when it is ready.
func killedHost(t *testing.T, binary, root string, env ...string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(patient(t), self)
	cmd.Env = append(os.Environ(), append(env, "OSQVISOR_TEST_ROOT="+root, "OSQVISOR_TEST_BINARY="+binary)...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "ready\n" {
		t.Fatalf("the host said %q, %v", line, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed, which is an error
}

func TestPromise05KilledHostLeavesNoOsqueryd(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("needs the kernel's help, which only Linux gives to all of a group")
	}
	t.Parallel()
	each(t, func(t *testing.T, binary string) {
		dir := root(t)
		killedHost(t, binary, dir)
		killed := time.Now()
		eventually(t, "osqueryd is gone", func() bool { return len(processesOf(dir)) == 0 })
		if took := time.Since(killed); took > 2*time.Second {
			t.Errorf("it lived for %v", took)
		}
	})
}

func TestPromise05NextStartCleansUpByLease(t *testing.T) {
	t.Parallel()
	test := func(t *testing.T, binary string, then func()) {
		dir := root(t)
		killedHost(t, binary, dir, "OSQVISOR_TEST_ALONE=1")
		if runtime.GOOS == "linux" && len(processesOf(dir)) == 0 {
			t.Fatal("nothing survived the host, so there is nothing to clean up")
		}
		then()
		var log sharedBuffer
		r := start(t, binary, instance.WithRoot(dir), instance.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
		e := next[stats.LeftoverCleaned](t, r.events)
		if len(e.PIDs) == 0 {
			t.Errorf("%+v", e)
		}
		for _, text := range []string{"lock file", "Rocksdb open failed", "Pidfile"} {
			if bytes.Contains(log.bytes(), []byte(text)) {
				t.Errorf("osqueryd said %q:\n%s", text, log.bytes())
			}
		}
	}
	t.Run("fake", func(t *testing.T) {
		// It looks after its extensions seldom, or it would say on a broken pipe that they
		// are gone, and die of that.
		fake := osquerydtest.Start(t, osquerydtest.WithScript(osquerydtest.Script{TimeScale: 20}))
		test(t, fake.Path(), func() {
			if err := fake.SetScript(fast); err != nil {
				t.Fatal(err)
			}
		})
	})
	if real := realBinary(); real != "" {
		t.Run("real", func(t *testing.T) { test(t, real, func() {}) })
	}
}

// What holds the database or the pidfile is a stranger, and is told, not touched.
func TestPromise13StrangersAreTold(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, binary string) {
		for name, tt := range map[string]struct {
			file string
			want stats.Cause
		}{
			"database": {"--database_path", stats.CauseDatabaseLocked},
			"pidfile":  {"--pidfile", stats.CausePidfileBusy},
		} {
			t.Run(name, func(t *testing.T) {
				in := newInstance(t, binary)
				once(t, in) // makes the files
				stranger(t, in, binary, tt.file)
				e := wantExit(t, in.Run(patient(t)), stats.PhaseConnect, tt.want)
				if len(e.Stderr) == 0 || e.Code < 1 {
					t.Errorf("code %d, stderr %q", e.Code, e.Stderr)
				}
			})
		}
	})
}

// stranger is an osqueryd of somebody else's that has one of the instance's files.
func stranger(t *testing.T, in *instance.Instance, binary, shared string) {
	t.Helper()
	dir := root(t)
	args := map[string]string{
		"--database_path": dir + "/db", "--pidfile": dir + "/pid", "--extensions_socket": dir + "/em", "--logger_path": dir,
		"--config_path": dir + "/conf", "--flagfile": "", "--disable_watchdog": "true", "--disable_logging": "true",
	}
	args[shared] = in.Directory() + map[string]string{"--database_path": "/osquery.db", "--pidfile": "/osqueryd.pid"}[shared]
	var list []string
	for name, v := range args {
		list = append(list, name+"="+v)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, binary, list...)
	cmd.WaitDelay = 10 * time.Second
	if err := os.WriteFile(dir+"/conf", []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait() // it was killed
	})
	eventually(t, "the stranger has its socket", func() bool {
		_, err := os.Stat(dir + "/em")
		return err == nil
	})
}

// sharedBuffer may be written to by many.
type sharedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *sharedBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *sharedBuffer) bytes() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bytes.Clone(s.b.Bytes())
}
