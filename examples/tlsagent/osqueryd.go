package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/instance/osquerydtest"
)

// fakeName stands for the built-in osqueryd.
const fakeName = "fake"

// fakeSpeed makes the fake wait a fifth of what osqueryd waits by itself.
const fakeSpeed = 0.2

// found is the osqueryd that the agent runs.
type found struct {
	path  string
	about string // one line for the reader
	close func() error
}

// findOsqueryd looks where a user would expect. One that was named must work; one
// that merely is in PATH is left alone when it cannot be used.
func findOsqueryd(ctx context.Context, flag, dir string) (found, error) {
	env := os.Getenv("OSQUERYD")
	switch {
	case flag == fakeName:
		return makeFake(dir, "using the built-in fake osqueryd, as -osqueryd says")
	case flag != "":
		return named(flag, "-osqueryd")
	case env != "":
		return named(env, "$OSQUERYD")
	}
	path, err := exec.LookPath("osqueryd")
	if err != nil {
		return makeFake(dir, "no osqueryd in -osqueryd, $OSQUERYD or PATH: using the built-in fake")
	}
	if _, err := instance.CheckBinary(ctx, path); err != nil {
		return makeFake(dir, fmt.Sprintf("the osqueryd in PATH is not used (%v): using the built-in fake", err))
	}
	return named(path, "PATH")
}

func named(path, where string) (found, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return found{}, fmt.Errorf("%s: %w", where, err)
	}
	return found{path: abs, about: fmt.Sprintf("using %s, from %s", abs, where), close: func() error { return nil }}, nil
}

func makeFake(dir, about string) (found, error) {
	fake, err := osquerydtest.New(osquerydtest.WithDir(dir), osquerydtest.WithScript(osquerydtest.Script{TimeScale: fakeSpeed}))
	if err != nil {
		return found{}, fmt.Errorf("the built-in osqueryd: %w", err)
	}
	return found{path: fake.Path(), about: about, close: fake.Close}, nil
}

// directories gives the root of the instances and a temporary directory, which
// forget removes. The temporary one is as short as can be: sockets live in it.
func directories(root string) (instances, temporary string, forget func() error, err error) {
	parent := os.TempDir()
	if filepath.Separator == '/' && len(parent) > 30 {
		parent = "/tmp" // macOS names a longer one
	}
	temporary, err = os.MkdirTemp(parent, "osqv")
	if err != nil {
		return "", "", nil, fmt.Errorf("a temporary directory: %w", err)
	}
	forget = func() error { return os.RemoveAll(temporary) }
	if root == "" {
		return filepath.Join(temporary, "root"), temporary, forget, nil
	}
	instances, err = filepath.Abs(root)
	if err != nil {
		return "", "", nil, errors.Join(fmt.Errorf("-root: %w", err), forget())
	}
	return instances, temporary, forget, nil
}
