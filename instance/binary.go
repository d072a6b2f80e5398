package instance

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/osqvisor/osqvisor/internal/guard"
)

// MinVersion is the oldest osquery that can be run: pidfile locks and the denylist
// of distributed queries came with it.
const MinVersion = "5.5.0"

// Errors that say why a binary cannot be run. CheckBinary wraps them.
var (
	// ErrBinaryMissing says that there is no file at the path.
	ErrBinaryMissing = errors.New("the binary is missing")
	// ErrBinaryUnusable says that the file cannot, or must not, be run.
	ErrBinaryUnusable = errors.New("the binary cannot be used")
)

// errBinarySlow is no verdict on the binary: a virus scanner or a busy machine may be why.
var errBinarySlow = errors.New("it gave no answer")

// Binary is an osqueryd that was looked at and asked for its version and flags.
type Binary struct {
	// Path is absolute.
	Path string
	// Version is osquery's, such as "5.23.0".
	Version string

	lacks map[string]bool // the flags of the SDK's own that it does not know
	print fingerprint
}

// fingerprint tells whether a file is still the one that was looked at.
type fingerprint struct {
	info fs.FileInfo
}

func (f fingerprint) is(info fs.FileInfo) bool {
	return f.info != nil && os.SameFile(f.info, info) &&
		f.info.Size() == info.Size() && f.info.ModTime().Equal(info.ModTime())
}

// CheckBinary looks at the osqueryd at path and runs it, for its version and its
// flags. Of the options, WithBinaryTimeout, WithEnv and WithBinaryChecks count. Each execution is bounded by ctx,
// by WithBinaryTimeout and by 4 MiB of output, and ends together with all that it started.
//
// It refuses what osqueryd itself or good sense would refuse: a file that is not there, a
// directory, one that cannot be executed, is made for another system or processor, or is older
// than MinVersion; and, but for Windows, one that somebody other than root and this user can
// change or replace: the file, or a directory on the way to it (through links too), belongs to
// another user or can be written by others or by a group. A directory that others cannot reach, a
// sticky one such as /tmp in which the next part of the path is root's or this user's, and a group
// of the same number as the owner, as root's and user-private groups are, are no objection. osqueryd
// itself wants its file not to lie directly in a sticky directory.
func CheckBinary(ctx context.Context, path string, opts ...Option) (Binary, error) {
	o := defaults("")
	for _, opt := range opts {
		if opt != nil {
			opt(o)
		}
	}
	if o.binaryTimeout <= 0 {
		o.binaryTimeout = DefaultBinaryTimeout // New of an instance tells the mistake
	}
	if err := errors.Join(o.checkEnv()...); err != nil {
		return Binary{Path: path}, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, o.checkBound(), errDiskHangs)
	defer cancel()
	var b Binary
	err := guard.Call(ctx, flightEnds, func() (err error) {
		b, err = o.checkBinary(ctx, path)
		return err
	}, nil)
	if errors.Is(err, guard.ErrHangs) {
		return Binary{Path: path}, err
	}
	return b, err
}

// checkBound is how long all checks of New or CheckBinary may take, with a disk that hangs.
func (o *options) checkBound() time.Duration {
	return max(o.diskTimeout, time.Second) + 3*max(o.binaryTimeout, 0)
}

func (o *options) checkBinary(ctx context.Context, path string) (Binary, error) {
	b := Binary{Path: path}
	if path == "" {
		return b, fmt.Errorf("%w: no path is given; name the osqueryd to run", ErrBinaryMissing)
	}
	if !filepath.IsAbs(path) {
		return b, fmt.Errorf("%w: %q is relative; give an absolute path", ErrBinaryUnusable, path)
	}
	foreign, err := inspectBinary(&b)
	if err != nil {
		return b, err
	}
	if err := o.askVersion(ctx, &b); err != nil {
		if foreign != nil {
			return b, fmt.Errorf("%w; %w", err, foreign)
		}
		return b, err
	}
	verdict, err := o.probeFlags(ctx, path, sdkProbe())
	b.lacks = verdict.unknown
	return b, err
}

// unchanged says whether the file is still the one that was checked.
func (b Binary) unchanged() bool {
	info, err := os.Stat(b.Path)
	return err == nil && b.print.is(info)
}

func inspectBinary(b *Binary) (foreign, err error) {
	info, err := os.Stat(b.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%w: there is nothing at %s; install osquery or correct the path", ErrBinaryMissing, b.Path)
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrBinaryUnusable, err)
	case info.IsDir():
		return nil, fmt.Errorf("%w: %s is a directory; name the osqueryd in it", ErrBinaryUnusable, b.Path)
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%w: %s is not a regular file", ErrBinaryUnusable, b.Path)
	}
	b.print = fingerprint{info: info}
	if err := checkBinaryMode(b.Path, info); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBinaryUnusable, err)
	}
	if foreign, err = checkArchitecture(b.Path); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBinaryUnusable, err)
	}
	return foreign, nil
}

var versionPattern = regexp.MustCompile(`version (\d+)\.(\d+)\.(\d+)`)

func (o *options) askVersion(ctx context.Context, b *Binary) error {
	out, err := o.checks.run(ctx, probe{
		path: b.Path, args: []string{"--version"}, env: o.env, timeout: o.binaryTimeout,
	})
	if err != nil {
		return fmt.Errorf("%w: %s --version: %w", ErrBinaryUnusable, b.Path, err)
	}
	m := versionPattern.FindSubmatch(out)
	if m == nil {
		return fmt.Errorf("%w: %s --version printed no version but %q; is it an osqueryd?",
			ErrBinaryUnusable, b.Path, clip(out, 80))
	}
	b.Version = fmt.Sprintf("%s.%s.%s", m[1], m[2], m[3])
	if versionLess(b.Version, MinVersion) {
		return fmt.Errorf("%w: %s is osquery %s; %s or newer is needed", ErrBinaryUnusable, b.Path, b.Version, MinVersion)
	}
	return nil
}

func versionLess(a, b string) bool {
	as, bs := strings.Split(a, "."), strings.Split(b, ".")
	for i := range min(len(as), len(bs)) {
		x, errX := strconv.Atoi(as[i])
		y, errY := strconv.Atoi(bs[i])
		if errX != nil || errY != nil || x == y {
			continue
		}
		return x < y
	}
	return false
}

func clip(b []byte, n int) string {
	s := strings.TrimSpace(string(b))
	if len(s) > n {
		return s[:n] + "…"
	}
	return s
}
