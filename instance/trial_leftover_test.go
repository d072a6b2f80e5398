package instance_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/instance/osquerydtest"
)

// Temporary files that a killed host left are removed at the next start; those that may be in use, and others', stay.
func TestTrial11LeftoverFilesAreRemoved(t *testing.T) {
	t.Parallel()
	in := newInstance(t, osquerydtest.Start(t, osquerydtest.WithScript(fast)).Path(), instance.WithTransport(extension.NewMemory()))
	dir, root := in.Directory(), filepath.Dir(in.Directory())
	if err := os.MkdirAll(filepath.Join(dir, "queue"), 0o700); err != nil {
		t.Fatal(err)
	}
	place := func(old bool, paths ...string) []string {
		for _, path := range paths {
			if err := os.WriteFile(path, []byte("secret"), 0o600); err != nil {
				t.Fatal(err)
			}
			if when := time.Now().Add(-time.Hour); old {
				if err := os.Chtimes(path, when, when); err != nil {
					t.Fatal(err)
				}
			}
		}
		return paths
	}
	gone := place(true, filepath.Join(dir, ".node_key.123"), filepath.Join(dir, ".config.json.4"), filepath.Join(dir, "lease.json.56.tmp"),
		filepath.Join(dir, ".osqvisor-7"), filepath.Join(dir, "queue", ".held.8"), filepath.Join(root, ".osqvisor-9"))
	stay := append(place(true, filepath.Join(dir, "mine.123"), filepath.Join(dir, ".hidden"), filepath.Join(dir, "a.1.tmp")),
		place(false, filepath.Join(dir, ".node_key.9"))...)
	if err := instance.CheckRoot(root); err != nil {
		t.Fatal(err)
	}
	once(t, in)
	for _, path := range gone {
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("%s is still there", path)
		}
	}
	for _, path := range stay {
		if _, err := os.Lstat(path); err != nil {
			t.Error(err)
		}
	}
}
