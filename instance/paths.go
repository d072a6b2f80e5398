package instance

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// lockName is the file whose lock keeps others out of an instance's directory.
const lockName = "lock"

// paths is where the files of an instance are.
type paths struct {
	dir          string // the instance's own, 0700
	database     string
	pidfile      string
	logs         string // osqueryd's logger_path, for plugins that write files
	lease        string
	lock         string
	socketNote   string // holds the name of a socket that lies elsewhere; see shortSocket
	socket       string // empty when it would be too long, so that it lies elsewhere
	socketDir    string // the directory of the socket; empty for a named pipe
	ownSocketDir bool   // it is outside of dir, and the SDK's own: it goes with the run
}

func (o *options) layout() paths {
	dir := o.dir
	if dir == "" {
		dir = filepath.Join(o.root, o.id)
	}
	p := paths{
		dir:      dir,
		database: filepath.Join(dir, "osquery.db"),
		pidfile:  filepath.Join(dir, "osqueryd.pid"),
		logs:     filepath.Join(dir, "logs"),
		lease:    filepath.Join(dir, "lease.json"),
		lock:     filepath.Join(dir, lockName),

		socketNote: filepath.Join(dir, "socket"),
	}
	p.socket, p.socketDir = o.socketPath(dir)
	p.ownSocketDir = p.socket == ""
	return p
}

// checkPaths holds what can be known of the directories before the first run. It
// makes the instance's directory, since nothing else tells whether it can be made.
func (o *options) checkPaths() []error {
	option, base := "WithRoot", o.root
	switch {
	case o.dir != "":
		option, base = "WithDirectory", o.dir
	case o.root == "":
		return []error{optionErrorf("WithRoot", "no directory is given; name one for the instance to keep its data in")}
	}
	if !filepath.IsAbs(base) {
		return []error{optionErrorf(option, "%q is relative; give an absolute path", base)}
	}
	if o.dir == "" {
		if err := o.makeWritableDir(o.root, false); err != nil {
			return []error{&OptionError{Option: option, Err: err}}
		}
	}
	if CheckID(o.id) != nil {
		return nil // said already, and not to be made a directory of
	}
	var errs []error
	p := o.layout()
	if err := o.makeWritableDir(p.dir, true); err != nil {
		errs = append(errs, &OptionError{Option: option, Err: err})
	}
	if err := o.checkSocket(p); err != nil {
		errs = append(errs, &OptionError{Option: "WithSocket", Err: err})
	}
	return errs
}

// CheckRoot reports whether dir can be a root: absolute, of this user, a directory that
// can be written to, and none in which others can replace what is not theirs: if they can write
// to it, it must be sticky. A dir that is not there is made for the check, 0700, and removed again.
func CheckRoot(dir string) error {
	if !filepath.IsAbs(dir) {
		return fmt.Errorf("%q is relative; give an absolute path", dir)
	}
	var o options
	defer o.unmake()
	if err := o.makeWritableDir(dir, false); err != nil {
		return err
	}
	sweep(dir)
	return nil
}

// makeDir makes dir, 0700, or checks that it is a directory of ours. Private ones are
// closed to others; in the rest others must not be able to replace what is ours.
func makeDir(dir string, private bool) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("%s cannot be made: %w", dir, reason(err))
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("%s: %w", dir, reason(err))
	}
	if private && info.Mode()&fs.ModeSymlink != 0 {
		return fmt.Errorf("%s is a symbolic link; give the directory itself", dir)
	}
	if info, err = os.Stat(dir); err != nil {
		return fmt.Errorf("%s: %w", dir, reason(err))
	}
	if err := checkDirOwner(dir, info); err != nil {
		return err
	}
	switch {
	case !private:
		return checkShared(dir)
	case info.Mode().Perm()&0o077 != 0:
		if err := os.Chmod(dir, 0o700); err != nil {
			return fmt.Errorf("%s is open to others and cannot be closed: %w", dir, reason(err))
		}
	}
	return nil
}

// makeWritableDir is makeDir for what is checked before the first run. At a start,
// the first file that is made in the directory tells the same. What it made goes with unmake.
func (o *options) makeWritableDir(dir string, private bool) error {
	o.made = append(missing(dir), o.made...)
	if err := makeDir(dir, private); err != nil {
		return err
	}
	return checkWritable(dir)
}

// missing lists what of the path is not there, the longest first.
func missing(dir string) (paths []string) {
	for {
		if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) || dir == filepath.Dir(dir) {
			return paths
		}
		paths = append(paths, dir)
		dir = filepath.Dir(dir)
	}
}

// unmake removes the directories that were made for a check, as far as they are empty.
func (o *options) unmake() {
	for _, dir := range o.made {
		_ = os.Remove(dir) // it was not made, or somebody uses it by now
	}
	o.made = nil
}

// checkWritable makes a file, because modes alone do not tell: read-only mounts,
// quotas and access lists have their say.
func checkWritable(dir string) error {
	f, err := os.CreateTemp(dir, ".osqvisor-*")
	if err != nil {
		return fmt.Errorf("%s cannot be written to: %w", dir, reason(err))
	}
	err = os.Remove(f.Name())
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(f.Close(), err)
}

// leftoverAge is how old a temporary file is whose maker, killed, will not remove it any more.
const leftoverAge = time.Minute

// sweep removes from dir the temporary files of killed hosts: of the check whether it can be written to, and of files that
// are replaced as a whole.
func sweep(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return // whoever needs the directory reports that
	}
	for _, e := range entries {
		if !e.Type().IsRegular() || !isTemporary(e.Name()) {
			continue
		}
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > leftoverAge {
			_ = os.Remove(filepath.Join(dir, e.Name())) // the next start tries again
		}
	}
}

// isTemporary knows the names that os.CreateTemp made for us: .osqvisor-1, .node_key.1, .config.json.1, lease.json.1.tmp.
func isTemporary(name string) bool {
	base, lease := strings.CutSuffix(name, ".tmp")
	stem := strings.TrimRight(base, "0123456789")
	switch {
	case stem == base:
		return false
	case lease:
		return stem == "lease.json."
	}
	return stem == ".osqvisor-" || len(stem) > 2 && stem[0] == '.' && stem[len(stem)-1] == '.'
}

// reason is the cause in a path error, whose path is in our text already.
func reason(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}
