package osquerydtest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/osqvisor/osqvisor/instance"
)

// FakeName is the name with which [Find] returns a fake.
const FakeName = "fake"

// Found is an osqueryd that a program can run.
type Found struct {
	Path string // absolute
	From string // where it was found, or why it is a fake, for a message
	Fake *Fake  // nil for a real osqueryd
}

// Find returns the osqueryd at the path name, else at the path $OSQUERYD, else in PATH, else a
// new fake with opts. It skips one in PATH that [instance.CheckBinary] refuses. The name
// [FakeName] always means a fake.
func Find(ctx context.Context, name string, opts ...Option) (*Found, error) {
	env := os.Getenv("OSQUERYD")
	switch {
	case name == FakeName:
		return newFound("using the built-in fake osqueryd", opts)
	case name != "":
		return named(name, "the command line")
	case env != "":
		return named(env, "$OSQUERYD")
	}
	path, err := exec.LookPath("osqueryd")
	if err != nil {
		return newFound("no osqueryd is named, in $OSQUERYD or in PATH: using the built-in fake", opts)
	}
	if _, err := instance.CheckBinary(ctx, path); err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return newFound(fmt.Sprintf("the osqueryd in PATH is not used (%v): using the built-in fake", err), opts)
	}
	return named(path, "PATH")
}

func named(path, where string) (*Found, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("the osqueryd of %s: %w", where, err)
	}
	return &Found{Path: abs, From: fmt.Sprintf("using %s, from %s", abs, where)}, nil
}

func newFound(from string, opts []Option) (*Found, error) {
	fake, err := New(opts...)
	if err != nil {
		return nil, err
	}
	return &Found{Path: fake.Path(), From: from, Fake: fake}, nil
}

// Name returns the path of a real osqueryd, and [FakeName] for the fake.
func (f *Found) Name() string {
	if f.Fake != nil {
		return FakeName
	}
	return f.Path
}

// Close removes the fake, if it is one.
func (f *Found) Close() error {
	if f.Fake == nil {
		return nil
	}
	return f.Fake.Close()
}
