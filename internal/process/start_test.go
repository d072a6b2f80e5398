//go:build unix

package process

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/osqvisor/osqvisor/internal/testhelp"
)

func TestExitCodeAndTimes(t *testing.T) {
	testhelp.CheckLeaks(t)
	before := time.Now()
	exit := mustExit(t, mustStart(t, roleSpec("exit:78", nil)))
	if exit.Code != 78 || exit.Signal != "" || exit.Err != nil {
		t.Errorf("got %+v, want code 78", exit)
	}
	if exit.Started.Before(before) || exit.Ended.Before(exit.Started) {
		t.Errorf("times out of order: %v, started %v, ended %v", before, exit.Started, exit.Ended)
	}
}

func TestTerminateReachesTheLeaderAndTheRestIsKilled(t *testing.T) {
	testhelp.CheckLeaks(t)
	heard := newListener()
	spec := roleSpec("watcher", heard.hear)
	spec.NoTether = true // which would do the same
	p := mustStart(t, spec)
	both := heard.ready(t, 2)
	if !p.groupAlive() || !p.Identity().Alive() {
		t.Fatal("group is not alive")
	}
	if err := p.Terminate(); err != nil {
		t.Fatal(err)
	}
	if exit := mustExit(t, p); exit.Code != 0 {
		t.Errorf("got %+v, want code 0", exit)
	}
	mustGo(t, time.Second, both...)
	mustGroupGo(t, p)
	if err := errors.Join(p.Terminate(), p.KillGroup(), p.Identity().Kill()); err != nil {
		t.Errorf("after the end: %v", err)
	}
}

func TestKillGroupKillsAll(t *testing.T) {
	testhelp.CheckLeaks(t)
	heard := newListener()
	p := mustStart(t, roleSpec("watcher", heard.hear))
	both := heard.ready(t, 2)
	if err := p.KillGroup(); err != nil {
		t.Fatal(err)
	}
	if exit := mustExit(t, p); exit.Code != -1 || exit.Signal != "SIGKILL" {
		t.Errorf("got %+v, want SIGKILL", exit)
	}
	mustGo(t, time.Second, both...)
}

// A leader that somebody else kills leaves an orphan in its group, which is proven by its mark and ended.
func TestSparedOrphan(t *testing.T) {
	testhelp.CheckLeaks(t)
	heard := newListener()
	spec := roleSpec("watcher", heard.hear)
	spec.spareGroup, spec.drainGrace = true, 20*time.Millisecond
	p := mustStart(t, spec)
	both := heard.ready(t, 2)
	if err := p.Identity().Kill(); err != nil {
		t.Fatal(err)
	}
	mustExit(t, p)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if err := p.WaitGroupGone(ctx); !errors.Is(err, ErrStillAlive) || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("orphan was not spared: %v", err)
	}
	if err := p.KillGroup(); err != nil {
		t.Error(err)
	}
	mustGo(t, time.Second, both...)
	mustGroupGo(t, p)
}

func TestStartErrorsSayWhy(t *testing.T) {
	testhelp.CheckLeaks(t)
	dir := t.TempDir()
	file := func(name, content string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	exe, _ := os.Executable()
	tests := map[string]struct {
		spec Spec
		kind error
		also error
		hint string
	}{
		"missing":     {Spec{Path: dir + "/none"}, ErrBinaryNotFound, syscall.ENOENT, "install"},
		"no loader":   {Spec{Path: file("script", "#!/no/such/interpreter\n", 0o755)}, ErrNotExecutable, syscall.ENOENT, "loader"},
		"mode":        {Spec{Path: file("mode", "x", 0o644)}, ErrPermission, syscall.EACCES, "-rw-r--r--"},
		"directory":   {Spec{Path: dir}, ErrPermission, syscall.EACCES, "directory"},
		"format":      {Spec{Path: file("format", "\x00\x01no program", 0o755)}, ErrNotExecutable, syscall.ENOEXEC, "build for"},
		"under file":  {Spec{Path: file("plain", "x", 0o755) + "/x"}, ErrBinaryNotFound, syscall.ENOTDIR, "directory"},
		"working dir": {Spec{Path: exe, Dir: dir + "/none"}, ErrDir, syscall.ENOENT, "create"},
		"relative":    {Spec{Path: "osqueryd"}, ErrSpec, nil, "absolute"},
	}
	for name, tt := range tests {
		tt.spec.Args = []string{"x"}
		_, err := Start(t.Context(), tt.spec)
		var failed *StartError
		if !errors.As(err, &failed) || !errors.Is(err, tt.kind) || tt.also != nil && !errors.Is(err, tt.also) {
			t.Errorf("%s: got %v, want %v and %v", name, err, tt.kind, tt.also)
		} else if !strings.Contains(failed.Hint, tt.hint) || !strings.Contains(err.Error(), failed.Hint) {
			t.Errorf("%s: got hint %q, want one with %q in the text", name, failed.Hint, tt.hint)
		}
	}
	if _, err := Start(t.Context(), Spec{Path: exe}); !errors.Is(err, ErrSpec) {
		t.Errorf("no argv: got %v, want ErrSpec", err)
	}
}

func TestCancelledStartReturnsTheCauseAndLeavesNothing(t *testing.T) {
	testhelp.CheckLeaks(t)
	why := errors.New("why")
	started := 0
	for i := range 60 {
		ctx, cancel := context.WithCancelCause(context.Background())
		timer := time.AfterFunc(time.Duration(i)*60*time.Microsecond, func() { cancel(why) })
		p, err := Start(ctx, roleSpec("sleep", nil))
		switch {
		case err == nil:
			started++
			p.KillGroup()
			mustExit(t, p)
		case !errors.Is(err, why):
			t.Fatalf("got %v, want the cause", err)
		}
		if left := children(t); err != nil && len(left) > 0 {
			t.Fatalf("instant %d: Start returned and left %v", i, left)
		}
		timer.Stop()
		cancel(nil)
	}
	if started == 60 {
		t.Error("no start was cancelled, so this proved nothing")
	}
}

func TestParallelStarts(t *testing.T) {
	testhelp.CheckLeaks(t)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			p, err := Start(t.Context(), roleSpec("exit:3", nil))
			if err != nil {
				t.Error(err)
				return
			}
			<-p.Exited()
			if exit := p.Exit(); exit.Code != 3 {
				t.Errorf("got %+v, want code 3", exit)
			}
		})
	}
	wg.Wait()
}

func TestMethodsFromManyGoroutines(t *testing.T) {
	testhelp.CheckLeaks(t)
	p := mustStart(t, roleSpec("sleep", nil))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := errors.Join(p.Terminate(), p.KillGroup(), waitGroup(p)); err != nil {
				t.Error(err)
			}
			<-p.Exited()
			p.Exit()
			p.groupAlive()
			if err := errors.Join(p.Terminate(), p.KillGroup()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// A binary that is open for writing cannot be executed; often only for a moment, when another goroutine forks.
func TestBusyBinaryIsTriedAgain(t *testing.T) {
	testhelp.CheckLeaks(t)
	path := filepath.Join(t.TempDir(), "busy")
	if err := os.WriteFile(path, []byte("#!/bin/sh\nexit 4\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	spec := Spec{Path: path, Args: []string{"busy"}}
	if _, err := Start(t.Context(), spec); !errors.Is(err, ErrTextBusy) {
		t.Fatalf("got %v, want ErrTextBusy", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
	defer cancel()
	if _, err := Start(ctx, spec); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v, want the deadline", err)
	}
	time.AfterFunc(15*time.Millisecond, func() { file.Close() })
	if exit := mustExit(t, mustStart(t, spec)); exit.Code != 4 {
		t.Errorf("got %+v, want code 4", exit)
	}
}
