package osquerydtest_test

import (
	"context"
	"fmt"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	osquery "github.com/osquery/osquery-go"

	"github.com/osqvisor/osqvisor/instance/osquerydtest"
)

// served is an osqueryd played by goroutines.
type served struct {
	code   chan int
	stop   context.CancelFunc
	stderr *syncBuffer
}

func serve(t *testing.T, fake *osquerydtest.Fake, dir string, more ...string) *served {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	s := &served{code: make(chan int, 1), stop: cancel, stderr: &syncBuffer{}}
	go func() { s.code <- fake.Serve(ctx, instanceArgs(dir, more...), s.stderr) }()
	t.Cleanup(cancel)
	return s
}

func TestServeManyInProcess(t *testing.T) {
	const instances = 100
	ctx := testContext(t)
	before := runtime.NumGoroutine()
	fake := osquerydtest.Start(t, osquerydtest.WithScript(fast))
	var all []*served
	dir := root(t)
	var wait sync.WaitGroup
	for i := range instances {
		sub := filepath.Join(dir, fmt.Sprint(i))
		mkdir(t, sub)
		writeConf(t, sub, "{}")
		all = append(all, serve(t, fake, sub))
		wait.Go(func() {
			if _, err := fake.WaitWorker(ctx, sub+"/db"); err != nil {
				t.Error(err)
				return
			}
			c, err := osquery.NewClient(filepath.Join(sub, "em"), 5*time.Second)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			if _, err := c.QueryRow("SELECT pid FROM osquery_info"); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	for i, s := range all {
		s.stop()
		if code := <-s.code; code != 0 {
			t.Errorf("instance %d: exit code %d; stderr:\n%s", i, code, s.stderr)
		}
	}
	if err := fake.Close(); err != nil {
		t.Error(err)
	}
	waitGoroutines(ctx, t, before)
}

func TestServeDiesAtOnce(t *testing.T) {
	ctx := testContext(t)
	before := runtime.NumGoroutine()
	fake := osquerydtest.Start(t, osquerydtest.WithScript(fast.WithRule(osquerydtest.Rule{
		Phase: osquerydtest.PhaseQuery, Match: "sleep", Action: osquerydtest.Action{Do: osquerydtest.Kill},
	})))
	dir := root(t)
	writeConf(t, dir, "{}")
	s := serve(t, fake, dir)
	if _, err := fake.WaitWorker(ctx, dir); err != nil {
		t.Fatal(err)
	}
	c, err := osquery.NewClient(filepath.Join(dir, "em"), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Query("SELECT sleep(60)"); err == nil {
		t.Error("a query during which osqueryd is killed is answered")
	}
	c.Close()
	if code := <-s.code; code != 128+9 {
		t.Errorf("exit code %d, want 137", code)
	}
	again := serve(t, fake, dir, "--extensions_socket="+filepath.Join(dir, "em2"))
	if _, err := fake.WaitWorker(ctx, "em2"); err != nil {
		t.Fatalf("the dead one keeps something: %v; stderr:\n%s", err, again.stderr)
	}
	again.stop()
	<-again.code
	if err := fake.Close(); err != nil {
		t.Error(err)
	}
	waitGoroutines(ctx, t, before)
}

func TestServeWithoutFake(t *testing.T) {
	ctx, cancel := context.WithCancel(testContext(t))
	cancel()
	stderr := &syncBuffer{}
	args := append([]string{"osqueryd"}, instanceArgs(root(t), "--config_plugin=none")...)
	if code := osquerydtest.Serve(ctx, args, osquerydtest.Script{}, stderr); code != 0 && code != 78 {
		t.Errorf("exit code %d", code)
	}
	if code := osquerydtest.Serve(ctx, []string{"osqueryd", "--nonsense"}, osquerydtest.Script{}, stderr); code != 1 {
		t.Errorf("exit code %d for an unknown flag, want 1", code)
	}
	if !strings.Contains(stderr.String(), "unknown command line flag 'nonsense'") {
		t.Error(stderr)
	}
}

// waitGoroutines waits until there are no more goroutines than before.
func waitGoroutines(ctx context.Context, t *testing.T, before int) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for runtime.NumGoroutine() > before {
		select {
		case <-tick.C:
		case <-ctx.Done():
			buf := make([]byte, 1<<20)
			t.Fatalf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
		}
	}
}
