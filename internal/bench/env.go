package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/osqvisor/osqvisor/instance/osquerydtest"
)

// ErrSystem means that the benchmarks do not run here.
var ErrSystem = errors.New("the benchmarks need a Unix system")

// Env is where measurements happen: a directory, and the osqueryd they are of.
type Env struct {
	Dir    string // short, since sockets live below it; in memory if the system allows
	Disk   string // a directory for what is about the disk
	Binary string
	Real   bool // Binary is a real osqueryd
	Quick  bool // small numbers, for a check of the harness

	fake string // the fake osqueryd, which is this program
	seq  *atomic.Int64
}

// NewEnv makes an environment below dir, or when that is empty in memory and, for what
// is about the disk, below the temporary directory. osqueryd names a real one; empty
// stands for the fake, which is the calling program: it must call osquerydtest.Main
// first. Close removes it.
func NewEnv(osqueryd, dir string, quick bool) (*Env, error) {
	if goruntime.GOOS == "windows" {
		return nil, ErrSystem
	}
	e := &Env{Binary: osqueryd, Real: osqueryd != "", Quick: quick, seq: &atomic.Int64{}}
	if err := e.makeDirs(dir); err != nil {
		return nil, errors.Join(fmt.Errorf("make a directory for the measurements: %w", err), e.Close())
	}
	var err error
	if e.fake, err = e.scripted(realSpeed()); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	if !e.Real {
		e.Binary = e.fake
	}
	return e, nil
}

// memoryDir is Linux's file system in memory. There ext4 is not measured, which for
// minutes takes several times as long to make a file when others were deleted, and the
// measurements, and the go command before them, delete a lot.
const memoryDir = "/dev/shm"

func (e *Env) makeDirs(dir string) (err error) {
	const pattern = "obn"
	if e.Disk, err = os.MkdirTemp(dir, pattern); err != nil {
		return err
	}
	e.Dir = e.Disk
	if dir != "" {
		return nil
	}
	if memory, err := os.MkdirTemp(memoryDir, pattern); err == nil {
		e.Dir = memory
	}
	return nil
}

// realSpeed makes the fake take as long to open its socket and to stop as the
// fastest real osqueryd seen: by itself it does both in a few milliseconds, which
// would make the overhead of anything look large.
func realSpeed() osquerydtest.Script {
	wait := func(at osquerydtest.Phase, d time.Duration) osquerydtest.Rule {
		return osquerydtest.Rule{Phase: at, Action: osquerydtest.Action{Do: osquerydtest.Delay, Delay: d}}
	}
	return osquerydtest.Script{Rules: []osquerydtest.Rule{
		wait(osquerydtest.PhaseBeforeSocket, 30*time.Millisecond), wait(osquerydtest.PhaseStop, 200*time.Millisecond),
	}}
}

// Close removes the directories.
func (e *Env) Close() error {
	var errs []error
	for _, dir := range []string{e.Dir, e.Disk} {
		if dir != "" {
			errs = append(errs, os.RemoveAll(dir))
		}
	}
	return errors.Join(errs...)
}

// onDisk is the environment with its directories on the disk.
func (e *Env) onDisk() *Env {
	d := *e
	d.Dir = e.Disk
	return &d
}

// onFake is the environment with the fake in the place of a real osqueryd.
func (e *Env) onFake() *Env {
	f := *e
	f.Binary, f.Real = e.fake, false
	return &f
}

// with is the environment with another binary.
func (e *Env) with(binary string) *Env {
	f := *e
	f.Binary = binary
	return &f
}

// scripted installs a fake with a script. It is not an osquerydtest.Fake, whose
// remote control would be measured with the host: it is only the binary.
func (e *Env) scripted(s osquerydtest.Script) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find this program for the fake osqueryd: %w", err)
	}
	dir, err := e.newDir()
	if err != nil {
		return "", err
	}
	data, err := json.Marshal(s)
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(dir, osquerydtest.ScriptName), data, 0o600); err != nil {
		return "", err
	}
	path := filepath.Join(dir, "osqueryd")
	return path, os.Symlink(self, path)
}

// newDir makes a directory that nothing else uses.
func (e *Env) newDir() (string, error) {
	dir := filepath.Join(e.Dir, strconv.FormatInt(e.seq.Add(1), 36))
	return dir, os.Mkdir(dir, 0o700)
}

// few returns the number for a quick run, or the full one.
func (e *Env) few(quick, full int) int {
	if e.Quick {
		return quick
	}
	return full
}

// pause waits, unless ctx ends first.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// until repeats f, a millisecond apart, until it succeeds. It fails when ctx ends.
func until(ctx context.Context, f func() error) error {
	for {
		err := f()
		if err == nil {
			return nil
		}
		if perr := pause(ctx, time.Millisecond); perr != nil {
			return fmt.Errorf("%w: %w", perr, err)
		}
	}
}
