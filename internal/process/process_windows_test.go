package process

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

const roleEnv = "PROCESS_TEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(roleEnv) {
	case "":
		os.Exit(m.Run())
	case "exit":
		fmt.Println("leaving")
		os.Exit(78)
	case "stay":
		fmt.Println("ready")
		<-time.After(time.Minute)
	case "host":
		p, err := Start(context.Background(), roleSpec("stay", nil))
		if err != nil {
			os.Exit(97)
		}
		fmt.Println(p.PID())
		<-p.Exited()
	}
}

func roleSpec(role string, stdout func([]byte)) Spec {
	exe, _ := os.Executable()
	env := []string{roleEnv + "=" + role, "SystemRoot=" + os.Getenv("SystemRoot")}
	return Spec{Path: exe, Args: []string{exe}, Env: env, Stdout: stdout}
}

func mustStart(t *testing.T, role string) (*Process, <-chan string) {
	t.Helper()
	heard := make(chan string, 10)
	p, err := Start(t.Context(), roleSpec(role, func(line []byte) { heard <- string(line) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.KillGroup()
		<-p.Exited()
	})
	return p, heard
}

func TestExitCodeAndOutput(t *testing.T) {
	p, heard := mustStart(t, "exit")
	<-p.Exited()
	if exit := p.Exit(); exit.Code != 78 || exit.Err != nil {
		t.Errorf("got %+v, want code 78", exit)
	}
	if line := <-heard; line != "leaving" {
		t.Errorf("got %q", line)
	}
}

func TestKillGroupEndsTheJob(t *testing.T) {
	p, heard := mustStart(t, "stay")
	<-heard
	stranger := p.Identity()
	stranger.StartTime += "0"
	if err := stranger.Kill(); err != nil || !p.Identity().Alive() || !p.groupAlive() {
		t.Fatalf("a stranger was signalled (%v)", err)
	}
	if err := p.KillGroup(); err != nil {
		t.Fatal(err)
	}
	<-p.Exited()
	if err := p.WaitGroupGone(t.Context()); err != nil || p.Identity().Alive() {
		t.Errorf("still alive: %v", err)
	}
}

// The job ends with its only handle, which a killed host closes.
func TestPromiseNoOrphansAfterKilledHost(t *testing.T) {
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	spec := roleSpec("host", nil)
	host, err := os.StartProcess(spec.Path, spec.Args, &os.ProcAttr{Env: spec.Env, Files: []*os.File{nil, in, in}})
	in.Close()
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	line, _ := bufio.NewReader(out).ReadString('\n')
	if _, err := fmt.Sscan(line, &pid); err != nil {
		t.Fatal(err)
	}
	child, err := Identify(pid)
	killErr := host.Kill()
	_, waitErr := host.Wait()
	if err := errors.Join(err, killErr, waitErr); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if err := waitUntil(ctx, func() bool { return !child.Alive() }); err != nil {
		t.Error(err)
	}
}

func TestReclaimKillsTheLeasedOnly(t *testing.T) {
	p, heard := mustStart(t, "stay")
	<-heard
	path := filepath.Join(t.TempDir(), "lease")
	lease := Lease{Identity: p.Identity(), Binary: p.spec.Path, RunID: p.RunID()}
	lease.Identity.StartTime = "1"
	if err := WriteLease(path, lease); err != nil {
		t.Fatal(err)
	}
	if killed, err := Reclaim(t.Context(), path, ReclaimOptions{}); err != nil || len(killed) != 0 {
		t.Fatalf("reused pid: got %+v, %v", killed, err)
	}
	lease.Identity = p.Identity()
	if err := WriteLease(path, lease); err != nil {
		t.Fatal(err)
	}
	if killed, err := Reclaim(t.Context(), path, ReclaimOptions{}); err != nil || len(killed) != 1 {
		t.Errorf("got %+v, %v", killed, err)
	}
}
