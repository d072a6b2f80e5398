package instance_test

import (
	"bytes"
	"context"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/instance"
)

const (
	nodeKey      = "node-key-3b1f77a2"
	enrollSecret = "enroll-secret-9c40d1"
)

// secretive is a server that hands out a node key.
type secretive struct {
	extension.Funcs
	secret string
}

func (s secretive) Enroll(context.Context, extension.EnrollRequest) (string, error) {
	return nodeKey, nil
}

func noSecret(t *testing.T, where string, text []byte) {
	t.Helper()
	for _, secret := range []string{nodeKey, enrollSecret} {
		if bytes.Contains(text, []byte(secret)) {
			t.Errorf("%s holds %s", where, secret)
		}
	}
}

func TestPromise11Secrets(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, binary string) {
		var log sharedBuffer
		asked := make(chan string, 100)
		server := secretive{secret: enrollSecret}
		server.ConfigFunc = func(_ context.Context, n extension.Node) (map[string]string, error) {
			asked <- n.Key
			return map[string]string{"a": "{}"}, nil
		}
		r := start(t, binary, instance.WithTransport(server),
			instance.WithLogger(slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))))
		if key := <-asked; key != nodeKey {
			t.Fatalf("the transport was handed the key %q", key)
		}
		for _, pid := range []int{r.PID(), workerPID(t, r)} {
			for _, what := range []string{"cmdline", "environ"} {
				text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/" + what)
				if err != nil {
					t.Fatal(err)
				}
				noSecret(t, what, text)
			}
		}
		checkModes(t, r.Directory())
		if info, err := os.Stat(filepath.Dir(r.Socket())); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("the socket's directory: %v, %v", info.Mode(), err)
		}
		r.stop()
		if err := r.wait(t); err != nil {
			t.Fatal(err)
		}
		checkModes(t, r.Directory())
		if len(log.bytes()) == 0 {
			t.Error("nothing was logged")
		}
		noSecret(t, "the log", log.bytes())
	})
}

// checkModes: the directory is closed to others, which also closes what osqueryd's
// database makes in it with modes of its own; everything of ours is closed by itself.
func checkModes(t *testing.T, dir string) {
	t.Helper()
	if info, err := os.Lstat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%s: %v, %v", dir, info, err)
	}
	keys := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // gone meanwhile
		}
		if d.Name() == "osquery.db" {
			return fs.SkipDir
		}
		info, err := d.Info()
		if err != nil {
			return nil //nolint:nilerr // gone meanwhile
		}
		if info.Mode().Perm()&0o077 != 0 && info.Mode()&fs.ModeSocket == 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		if info.Mode().IsRegular() {
			text, _ := os.ReadFile(path)
			if bytes.Contains(text, []byte(nodeKey)) {
				keys++
			}
			if bytes.Contains(text, []byte(enrollSecret)) {
				t.Errorf("%s holds the enroll secret", path)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if keys != 1 {
		t.Errorf("%d files hold the node key, want its own alone", keys)
	}
}
