package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/osqvisor/osqvisor/internal/testhelp"
)

var systemRoles = map[string]func(string){"reaper": playReaper, "reclaim": playReclaim}

// playReaper is a host that inherits orphans, as PID 1 of a container does. It has five runs of a leader that ends and leaves
// a descendant, and a child of its own that nobody but its own code may wait for.
func playReaper(where string) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		fmt.Println("failed", err)
		os.Exit(97)
	}
	own := exec.Command("/bin/sh", "-c", "exit 3")
	own.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := own.Start(); err != nil {
		fmt.Println("failed", err)
		os.Exit(97)
	}
	ended := awaitEnd(own.Process, Identity{}) // it is a zombie from here on
	for range 5 {
		if err := runToTheEnd(roleSpec("leaver:"+where, nil)); err != nil {
			fmt.Println("failed", err)
		}
	}
	left := 0
	for _, child := range childrenOf(os.Getpid()) {
		if child != strconv.Itoa(own.Process.Pid)+"Z" {
			left++
		}
	}
	err := own.Wait()
	fmt.Println("left", left, ended, "own", err)
}

func runToTheEnd(spec Spec) error {
	p, err := Start(context.Background(), spec)
	if err != nil {
		return err
	}
	<-p.Exited()
	if code := p.Exit().Code; code != 7 {
		return fmt.Errorf("exit code %d", code)
	}
	return nil
}

func childrenOf(pid int) []string {
	var found []string
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return []string{err.Error()}
	}
	for _, entry := range entries {
		raw, err := os.ReadFile("/proc/" + entry.Name() + "/stat")
		if err != nil {
			continue
		}
		fields := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+1:]))
		if fields[1] == strconv.Itoa(pid) {
			found = append(found, entry.Name()+fields[0])
		}
	}
	return found
}

// As PID 1 or a subreaper the host inherits what a child leaves behind, and must wait for it, or each run leaves a zombie.
func TestTrial31SubreaperCollectsTheWholeGroup(t *testing.T) {
	for name, where := range map[string]string{"small": "", "big": "big"} {
		t.Run(name, func(t *testing.T) {
			testhelp.CheckLeaks(t)
			heard := newListener()
			mustExit(t, mustStart(t, roleSpec("reaper:"+where, heard.hear)))
			got := strings.Join(heard.expect(t, "left", 1)[0], " ")
			if want := "left 0 <nil> own exit status 3"; got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

// playReclaim is a host that was replaced by exec(2): its children of before are still its own, and nobody else waits for them.
func playReclaim(path string) {
	if os.Getenv("RECLAIM_SECOND") == "" {
		p, err := Start(context.Background(), roleSpec("watcher", nil))
		host, idErr := Identify(os.Getpid())
		lease := Lease{Identity: p.Identity(), PGID: p.PID(), Binary: p.spec.Path, RunID: p.RunID(), Host: host}
		err = errors.Join(err, idErr, WriteLease(path, lease))
		exe, _ := os.Executable()
		fmt.Println("failed", err, unix.Exec(exe, []string{"osq-reclaim"}, append(os.Environ(), "RECLAIM_SECOND=1")))
		return
	}
	lease, leaseErr := readLease(path)
	_, err := Reclaim(context.Background(), path, ReclaimOptions{})
	fmt.Println("left", len(childrenOf(os.Getpid())), err, leaseErr == nil && lease.PGID > 0)
}

func TestTrial31ReclaimCollectsChildrenOfBeforeExec(t *testing.T) {
	testhelp.CheckLeaks(t)
	heard := newListener()
	mustExit(t, mustStart(t, roleSpec("reclaim:"+filepath.Join(t.TempDir(), "lease"), heard.hear)))
	got := strings.Join(heard.expect(t, "left", 1)[0], " ")
	if want := "left 0 <nil> true"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
