package osquerydtest_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	osquery "github.com/osquery/osquery-go"

	"github.com/osqvisor/osqvisor/instance/osquerydtest"
)

// fast makes periods a hundred times shorter.
var fast = osquerydtest.Script{TimeScale: 0.01, WatcherPoll: 20 * time.Millisecond}

// run is a fake started by a test.
type run struct {
	t      *testing.T
	fake   *osquerydtest.Fake
	dir    string
	cmd    *exec.Cmd
	stderr *syncBuffer
	exited chan struct{}
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// root makes a short directory: a socket lives in it.
func root(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "oq")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func instanceArgs(dir string, more ...string) []string {
	return append([]string{
		"--pidfile=" + filepath.Join(dir, "pid"), "--database_path=" + filepath.Join(dir, "db"),
		"--extensions_socket=" + filepath.Join(dir, "em"), "--logger_path=" + dir,
		"--config_path=" + filepath.Join(dir, "conf"), "--flagfile=",
	}, more...)
}

// start runs the fake in dir.
func start(t *testing.T, fake *osquerydtest.Fake, dir string, more ...string) *run {
	t.Helper()
	r := &run{t: t, fake: fake, dir: dir, stderr: &syncBuffer{}, exited: make(chan struct{})}
	r.cmd = exec.CommandContext(t.Context(), fake.Path(), instanceArgs(dir, more...)...)
	r.cmd.Stderr = r.stderr
	r.cmd.Env = []string{}
	r.cmd.WaitDelay = 10 * time.Second
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(r.exited)
		_ = r.cmd.Wait()
	}()
	t.Cleanup(r.kill)
	return r
}

func (r *run) kill() {
	for _, p := range r.fake.Processes() {
		if strings.Contains(p.String(), r.dir) {
			_ = p.Do(context.Background(), osquerydtest.Action{Do: osquerydtest.Exit, Code: 0})
		}
	}
	_ = r.cmd.Process.Kill()
	<-r.exited
}

// code waits for the exit code.
func (r *run) code(ctx context.Context) int {
	r.t.Helper()
	select {
	case <-r.exited:
		return r.cmd.ProcessState.ExitCode()
	case <-ctx.Done():
		r.t.Fatalf("no exit; stderr:\n%s", r.stderr)
		return -1
	}
}

func (r *run) ready(ctx context.Context) *osquerydtest.Process {
	r.t.Helper()
	p, err := r.fake.WaitWorker(ctx, r.dir)
	if err != nil {
		r.t.Fatalf("%v; stderr:\n%s", err, r.stderr)
	}
	return p
}

func (r *run) client() *osquery.ExtensionManagerClient {
	r.t.Helper()
	c, err := osquery.NewClient(filepath.Join(r.dir, "em"), 5*time.Second)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(c.Close)
	return c
}

// wantStderr waits for texts: a pipe is between the fake and the buffer.
func (r *run) wantStderr(texts ...string) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 5*time.Second)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for _, text := range texts {
		for !strings.Contains(r.stderr.String(), text) {
			select {
			case <-tick.C:
			case <-ctx.Done():
				r.t.Errorf("stderr does not hold %q:\n%s", text, r.stderr)
				return
			}
		}
	}
}

func writeConf(t *testing.T, dir, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, "conf"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

var errRefused = errors.New("refused")

// waitStats asks until the counters are as wanted; each question is a round
// trip to the fake.
func waitStats(ctx context.Context, t *testing.T, p *osquerydtest.Process, want func(osquerydtest.Stats) bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		s, err := p.Stats(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if want(s) {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("stats stay at %+v", s)
		}
	}
}

func mkdir(t *testing.T, dir string) {
	t.Helper()
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
}

func contextCanceled() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx, cancel
}
