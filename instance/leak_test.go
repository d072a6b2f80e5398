package instance_test

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/osqvisor/osqvisor/instance"
)

// eventually asks until ok says yes; what it asks about has ended already, but the
// system is allowed to notice.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	limit := time.NewTimer(5 * time.Second)
	defer limit.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-limit.C:
			t.Errorf("still not true after 5s: %s", what)
			return
		}
	}
}

// level is what a process holds. Only serial tests may compare two.
type level struct{ goroutines, files int }

func levelNow() level {
	files, _ := os.ReadDir("/proc/self/fd") // empty elsewhere
	return level{runtime.NumGoroutine(), len(files)}
}

func (before level) check(t testing.TB) {
	t.Helper()
	eventually(t, "no goroutine and no file is left", func() bool {
		now := levelNow()
		return now.goroutines <= before.goroutines && now.files <= before.files
	})
	if now := levelNow(); now.goroutines > before.goroutines || now.files > before.files {
		buf := make([]byte, 1<<20)
		t.Errorf("before %+v, after %+v:\n%s", before, now, buf[:runtime.Stack(buf, true)])
	}
}

// nothingLeft says that no process, socket, pidfile or lease of an instance is there.
func nothingLeft(t testing.TB, in *instance.Instance) {
	t.Helper()
	if pids := processesOf(in.Directory()); len(pids) > 0 {
		t.Errorf("processes %v are left", pids)
	}
	if _, err := os.Lstat(in.Socket()); err == nil {
		t.Errorf("the socket is left")
	}
	err := filepath.WalkDir(in.Directory(), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.Type()&fs.ModeSocket != 0 || name == "osqueryd.pid" || strings.HasPrefix(name, "lease") {
			t.Errorf("%s is left", path)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// processesOf finds the processes whose command line or environment names dir, on
// Linux. A zombie has neither, and is found by Promise01's children.
func processesOf(dir string) (pids []int) {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		for _, what := range []string{"cmdline", "environ"} {
			text, _ := os.ReadFile("/proc/" + e.Name() + "/" + what)
			if bytes.Contains(text, []byte(dir+"/")) {
				pids = append(pids, pid)
				break
			}
		}
	}
	return pids
}
